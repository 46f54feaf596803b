#!/bin/sh
# Install the Debian packages that the tests use, where they are missing and we may. Never fails: tests say what they miss.
set -u
axe=4.14.1 # checks the pages for WCAG; an npm package, into .tools below the repository
install_axe() {
    here=$(dirname "$0")/..
    [ -f "$here/.tools/node_modules/axe-core/axe.min.js" ] && return
    command -v npm >/dev/null || { echo "no npm; axe-core not installed" >&2; return; }
    npm install --no-audit --no-fund --no-save --prefix "$here/.tools" "axe-core@$axe" >/dev/null 2>&1 \
        || echo "could not install axe-core" >&2
}
packages="dcmtk dicom3tools orthanc orthanc-dicomweb libpixelmed-java default-jdk-headless chromium postgresql fonts-dejavu-core fonts-droid-fallback fonts-nanum poppler-utils npm libfaketime"
missing=""
for package in $packages; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q "ok installed" || missing="$missing $package"
done
[ -z "$missing" ] && { install_axe; exit 0; }
if [ "$(id -u)" = 0 ]; then run=""; elif sudo -n true 2>/dev/null; then run="sudo -n"; else
    install_axe
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
install_axe
exit 0
