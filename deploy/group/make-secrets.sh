#!/bin/sh
# Make the passwords of the group, once, readable by their owner only. They stand in no other file.
set -eu
cd "$(dirname "$0")"
mkdir -p secrets
umask 077
random() { head -c 24 /dev/urandom | od -An -tx1 | tr -d ' \n'; }
[ -e secrets/node.env ] && { echo "secrets/ is there already"; exit 0; }
database=$(random) key=$(random) secret=$(random)
printf 'POSTGRES_PASSWORD=%s\n' "$database" > secrets/postgres.env
printf 'MINIO_ROOT_USER=%s\nMINIO_ROOT_PASSWORD=%s\n' "$key" "$secret" > secrets/objects.env
printf 'ORTHANC__REGISTERED_USERS={"viewer":"%s"}\n' "$(random)" > secrets/orthanc.env
printf 'GF_SECURITY_ADMIN_PASSWORD=%s\n' "$(random)" > secrets/grafana.env
printf 'PGPASSWORD=%s\nAWS_ACCESS_KEY_ID=%s\nAWS_SECRET_ACCESS_KEY=%s\n' "$database" "$key" "$secret" > secrets/node.env
echo "made secrets/*.env"
