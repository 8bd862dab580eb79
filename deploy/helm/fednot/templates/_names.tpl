{{- define "fednot.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- /* What every object's name begins with: the release's name, with the chart's unless it has it. */}}
{{- define "fednot.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains (include "fednot.name" .) .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "fednot.name" .) | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "fednot.server" -}}{{ include "fednot.fullname" . }}-server{{- end }}

{{- define "fednot.selector" -}}
app.kubernetes.io/name: {{ include "fednot.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "fednot.labels" -}}
{{ include "fednot.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: fednot
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- /* Names under which the server is dialled, which its certificate must carry. */}}
{{- define "fednot.hosts" -}}
{{- $server := include "fednot.server" . }}
{{- $namespace := .Release.Namespace }}
{{- $inside := list $server (printf "%s.%s" $server $namespace) (printf "%s.%s.svc" $server $namespace) }}
{{- $inside = append $inside (printf "%s.%s.svc.%s" $server $namespace .Values.clusterDomain) }}
{{- concat $inside (list "localhost") .Values.certificates.hosts | uniq | toJson }}
{{- end }}

{{- /* Where the clients of this release dial, without a port. */}}
{{- define "fednot.dialled" -}}
{{- if .Values.client.server }}{{ .Values.client.server }}{{ else }}{{ include "fednot.server" . }}{{ end }}
{{- end }}

{{- /* The ConfigMap with the Task's files; empty if there is none. */}}
{{- define "fednot.taskConfigMap" -}}
{{- if .Values.task.existingConfigMap }}{{ .Values.task.existingConfigMap }}
{{- else if .Values.task.files }}{{ include "fednot.fullname" . }}-task{{ end }}
{{- end }}

{{- define "fednot.serviceAccount" -}}
{{- default (include "fednot.fullname" .) .Values.serviceAccount.name }}
{{- end }}

{{- /* image: the values of an image; role; suffix of the default tag; root. */}}
{{- define "fednot.image" -}}
{{- if .image.digest }}{{ .image.repository }}@{{ .image.digest }}
{{- else }}{{ .image.repository }}:{{ default (printf "%s%s" .root.Chart.AppVersion .suffix) .image.tag }}{{ end }}
{{- end }}
