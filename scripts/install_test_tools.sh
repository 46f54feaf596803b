#!/bin/sh
# Install the Debian packages that the tests use, where they are missing and we may. Never fails: tests say what they miss.
set -u
packages="dcmtk dicom3tools orthanc orthanc-dicomweb libpixelmed-java default-jdk-headless chromium postgresql fonts-dejavu-core fonts-droid-fallback fonts-nanum poppler-utils"
missing=""
for package in $packages; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q "ok installed" || missing="$missing $package"
done
[ -z "$missing" ] && exit 0
if [ "$(id -u)" = 0 ]; then run=""; elif sudo -n true 2>/dev/null; then run="sudo -n"; else
    echo "not permitted to install:$missing (tests that need them will skip)" >&2
    exit 0
fi
command -v apt-get >/dev/null || { echo "no apt-get; not installed:$missing" >&2; exit 0; }
echo "installing:$missing"
export DEBIAN_FRONTEND=noninteractive
$run apt-get update -q >/dev/null 2>&1
for package in $missing; do
    $run apt-get install -y -q --no-install-recommends "$package" >/dev/null 2>&1 || echo "could not install $package" >&2
done
exit 0
