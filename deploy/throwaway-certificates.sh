#!/bin/sh
# Makes an authority and the identities of a compose project. What is there stays as it is, but for two
# things that nobody else mends: a server that is dialled by a new name, and an operator or officer whose
# certificate ends within 60 days, since theirs is mounted for reading and cannot renew itself.
# /authority is the authority's volume, /volumes/NAME that of each identity's holder. HOSTS are the names
# and addresses by which the server is dialled; each of CLIENTS, who may be none, gets an identity.
set -eu
umask 077
authority=${AUTHORITY:-/authority}
volumes=${VOLUMES:-/volumes}
owner=${OWNER:-10001:10001}

set --
for host in $HOSTS; do set -- "$@" --host "$host"; done
[ -e "$authority/ca/cert.pem" ] || fednot certs init "$authority" "$@"

serves_all_hosts() {
  fednot certs show "$authority/server" --format json | python -c '
import json, sys
sys.exit(not set(sys.argv[1:]) <= set(json.load(sys.stdin)["certificate"]["hosts"]))' $HOSTS
}

ends_soon() {
  fednot certs list --authority "$authority" --format json | python -c '
import datetime, json, sys
rows = [row for row in json.load(sys.stdin)["certificates"] if row["role"] == row["name"] == sys.argv[1]]
soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=60)
ends = [datetime.datetime.fromisoformat(row["expires_at"]) for row in rows]
sys.exit(any(row["revoked_at"] for row in rows) or any(end > soon for end in ends))' "$1"
}

issue() {
  fednot certs issue "$1" "$2" --authority "$authority" --out "$volumes/$2/identity"
}

serves_all_hosts || fednot certs issue server server --authority "$authority" --out "$authority/server" "$@"
for name in ${CLIENTS:-}; do
  [ -e "$volumes/$name/identity/cert.pem" ] || issue client "$name"
done
for role in operator officer; do
  if ! [ -e "$volumes/$role/identity/cert.pem" ] || ends_soon "$role"; then issue "$role" "$role"; fi
done
chown -R "$owner" "$authority" "$volumes"/*
