{{/* Names, labels and images. */}}

{{- define "wattmill.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 38 | trimSuffix "-" }}
{{- end }}

{{/* The beginning of every object's name; short enough for what is put behind it. */}}
{{- define "wattmill.fullname" -}}
{{- $name := include "wattmill.name" . }}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 38 | trimSuffix "-" }}
{{- else if contains $name .Release.Name }}
{{- .Release.Name | trunc 38 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 38 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{/* What selects the pods of a part: (list context "api"). Never changes between versions. */}}
{{- define "wattmill.selector" -}}
{{- $context := index . 0 -}}
app.kubernetes.io/name: {{ include "wattmill.name" $context }}
app.kubernetes.io/instance: {{ $context.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{/* All labels of a part: (list context "api"). */}}
{{- define "wattmill.labels" -}}
{{- $context := index . 0 -}}
{{ include "wattmill.selector" . }}
app.kubernetes.io/part-of: wattmill
app.kubernetes.io/version: {{ $context.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $context.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $context.Chart.Name $context.Chart.Version | replace "+" "_" }}
{{- with $context.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* An image: (list context .Values.agent.image). */}}
{{- define "wattmill.image" -}}
{{- $image := index . 1 -}}
{{- $tag := $image.tag | default (index . 0).Chart.AppVersion -}}
{{- if $image.digest }}{{ $image.repository }}:{{ $tag }}@{{ $image.digest }}{{ else }}{{ $image.repository }}:{{ $tag }}{{ end }}
{{- end }}

{{- define "wattmill.serviceAccount" -}}
{{- .Values.service.serviceAccount.name | default (include "wattmill.fullname" .) }}
{{- end }}

{{- define "wattmill.agentServiceAccount" -}}
{{- .Values.agent.serviceAccount.name | default (printf "%s-agent" (include "wattmill.fullname" .)) }}
{{- end }}

{{- define "wattmill.keysSecret" -}}
{{- .Values.keys.existingSecret | default (printf "%s-keys" (include "wattmill.fullname" .)) }}
{{- end }}

{{/* Whether this release makes its own keys. */}}
{{- define "wattmill.makesKeys" -}}
{{- if and .Values.service.enabled (not .Values.keys.existingSecret) }}yes{{ end }}
{{- end }}

{{- define "wattmill.bundledDatabase" -}}
{{- if and .Values.service.enabled .Values.database.bundled.enabled }}yes{{ end }}
{{- end }}

{{- define "wattmill.databaseSecret" -}}
{{- .Values.database.bundled.existingSecret | default (printf "%s-database" (include "wattmill.fullname" .)) }}
{{- end }}

{{/* Where agents of this release post to. */}}
{{- define "wattmill.server" -}}
{{- if .Values.agent.server }}
{{- .Values.agent.server }}
{{- else if .Values.service.enabled }}
{{- printf "http://%s.%s.svc.%s:%d" (include "wattmill.fullname" .) .Release.Namespace .Values.clusterDomain (int .Values.service.http.port) }}
{{- else }}
{{- fail "agent.server: must be the address of the service, because service.enabled is false" }}
{{- end }}
{{- end }}

{{/* Whether agents ask the Kubernetes API for pods; YAML makes a bare off false. */}}
{{- define "wattmill.agentReadsPods" -}}
{{- if not (has (toString .Values.agent.config.kubernetes.pods) (list "off" "false")) }}yes{{ end }}
{{- end }}
