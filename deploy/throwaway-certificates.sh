#!/bin/sh
# Makes an authority and the identities of the compose project, once: what is there stays as it is.
# /authority is the authority's volume, /volumes/NAME that of each identity's holder.
set -eu
umask 077
authority=/authority
owner=10001:10001

[ -e "$authority/ca/cert.pem" ] ||
  fednot certs init "$authority" --host server --host localhost --host 127.0.0.1

issue() {
  [ -e "$3/cert.pem" ] || fednot certs issue "$1" "$2" --authority "$authority" --out "$3"
}

for name in $CLIENTS; do issue client "$name" "/volumes/$name/identity"; done
issue operator operator /volumes/operator/identity
issue officer officer /volumes/officer/identity
chown -R "$owner" "$authority" /volumes/*
