{{- define "fednot.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "fednot.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{- /* Settings as environment variables: prefix, settings. Lists are separated by spaces. */}}
{{- define "fednot.environment" -}}
{{- $prefix := .prefix }}
{{- range $name, $value := .settings }}
- name: {{ printf "%s%s" $prefix ($name | replace "-" "_" | upper) }}
  value: {{ if kindIs "slice" $value }}{{ join " " $value | quote }}{{ else if kindIs "float64" $value }}{{ $value | toJson | quote }}{{ else }}{{ $value | quote }}{{ end }}
{{- end }}
{{- end }}

{{- /* The Task's constructor's arguments: a map as KEY=VALUE, in the order of the keys. */}}
{{- define "fednot.taskArguments" -}}
{{- $rows := list }}
{{- range $key, $value := . }}{{ $rows = append $rows (printf "%s=%v" $key $value) }}{{ end }}
{{- join " " $rows }}
{{- end }}

{{- /* What a pod says about where it runs, beside its containers. */}}
{{- define "fednot.placement" -}}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .topologySpreadConstraints }}
topologySpreadConstraints:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end }}

{{- /* A pod's specification up to its containers: root, pod (the values of its side). */}}
{{- define "fednot.podStart" -}}
serviceAccountName: {{ include "fednot.serviceAccount" .root }}
automountServiceAccountToken: false
enableServiceLinks: false
terminationGracePeriodSeconds: {{ .pod.terminationGracePeriodSeconds }}
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  {{- include "fednot.podSecurity" . | nindent 2 }}
{{- end }}

{{- /* A claim's specification: the values of a volume. */}}
{{- define "fednot.claim" -}}
accessModes: {{ toJson .accessModes }}
{{- with .storageClass }}
storageClassName: {{ . | quote }}
{{- end }}
resources:
  requests:
    storage: {{ .size }}
{{- end }}
