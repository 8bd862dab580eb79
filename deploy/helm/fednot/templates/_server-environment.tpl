{{- /* The server's environment: what the chart decides, then the settings of the values. */}}
{{- define "fednot.serverEnvironment" -}}
{{- $server := .Values.server }}
{{- $chosen := dict "address" "0.0.0.0:50051" "http-address" "0.0.0.0:9464" }}
{{- $_ := set $chosen "state-dir" "/var/lib/fednot/state" }}
{{- if $server.ledger.separateVolume }}{{ $_ := set $chosen "ledger" "/ledger/ledger.jsonl" }}{{ end }}
{{- if eq .Values.certificates.mode "authority" }}
  {{- $_ := set $chosen "authority" "/authority/authority" }}
  {{- if $server.enrolment }}{{ $_ := set $chosen "enrolment-address" "0.0.0.0:50052" }}{{ end }}
{{- else }}
  {{- $_ := set $chosen "identity" "/identity" }}
{{- end }}
{{- with $server.revocations }}
  {{- if .configMap }}{{ $_ := set $chosen "revocations" (printf "/revocations/%s" .key) }}{{ end }}
{{- end }}
{{- if $server.dataChannel }}{{ $_ := set $chosen "data-address" "0.0.0.0:50053" }}{{ end }}
{{- if $server.database.secretName }}{{ $_ := set $chosen "database-file" "/secrets/database/url" }}{{ end }}
{{- if $server.s3.bucket }}
  {{- $_ := set $chosen "versions" (printf "s3://%s/%s" $server.s3.bucket $server.s3.prefix) }}
{{- end }}
{{- if not $server.settings.model }}{{ $_ := set $chosen "task" .Values.task.reference }}{{ end }}
{{- with include "fednot.taskArguments" (merge (deepCopy $server.taskArguments) .Values.task.arguments) }}
  {{- $_ := set $chosen "task-arg" . }}
{{- end }}
{{- include "fednot.environment" (dict "prefix" "FEDNOT_SERVER_" "settings" (merge $chosen $server.settings)) }}
{{- if $server.s3.bucket }}
- name: AWS_DEFAULT_REGION
  value: {{ $server.s3.region | quote }}
{{- with $server.s3.endpointUrl }}
- name: AWS_ENDPOINT_URL_S3
  value: {{ . | quote }}
{{- end }}
{{- if $server.s3.credentialsSecret }}
- name: AWS_SHARED_CREDENTIALS_FILE
  value: /secrets/s3/credentials
{{- end }}
{{- if $server.s3.checksumsWhenRequired }}
- name: AWS_REQUEST_CHECKSUM_CALCULATION
  value: when_required
{{- end }}
{{- end }}
{{- with $server.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}
