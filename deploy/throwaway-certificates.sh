#!/bin/sh
# Makes an authority and the identities of a compose project, once: what is there stays as it is.
# /authority is the authority's volume, /volumes/NAME that of each identity's holder. HOSTS are the names
# and addresses by which the server is dialled; each of CLIENTS, who may be none, gets an identity.
set -eu
umask 077
authority=/authority
owner=10001:10001

if ! [ -e "$authority/ca/cert.pem" ]; then
  set --
  for host in $HOSTS; do set -- "$@" --host "$host"; done
  fednot certs init "$authority" "$@"
fi

issue() {
  [ -e "$3/cert.pem" ] || fednot certs issue "$1" "$2" --authority "$authority" --out "$3"
}

for name in ${CLIENTS:-}; do issue client "$name" "/volumes/$name/identity"; done
issue operator operator /volumes/operator/identity
issue officer officer /volumes/officer/identity
chown -R "$owner" "$authority" /volumes/*
