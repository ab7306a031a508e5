{{/* What the pods of the service have in common: the API, the jobs and the migration. */}}

{{/* A pod under the restricted Pod Security profile. */}}
{{- define "wattmill.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{/* A container under the restricted Pod Security profile, with a root that can't be written. */}}
{{- define "wattmill.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* Spread over nodes and zones: (list context "api" given). */}}
{{- define "wattmill.spread" -}}
{{- $given := index . 2 -}}
{{- if $given }}
{{- toYaml $given }}
{{- else }}
{{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
- maxSkew: 1
  topologyKey: {{ . }}
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels:
      {{- include "wattmill.selector" $ | nindent 6 }}
{{- end }}
{{- end }}
{{- end }}

{{/* Numbers in YAML are floats to Helm; 200000 must not become 2e+05. */}}
{{- define "wattmill.text" -}}
{{- if and (kindIs "float64" .) (eq (floor .) .) }}{{ int64 . }}{{ else }}{{ . }}{{ end }}
{{- end }}

{{/* How the database is reached; its password is a file. */}}
{{- define "wattmill.databaseEnv" -}}
{{- $external := .Values.database.external -}}
{{- if include "wattmill.bundledDatabase" . }}
- name: WATTMILL_DATABASE_URL
  value: postgresql://wattmill@{{ include "wattmill.fullname" . }}-database:5432/wattmill
- name: WATTMILL_DATABASE_PASSWORD_FILE
  value: /etc/wattmill/database/password
{{- else if $external.urlSecret.name }}
- name: WATTMILL_DATABASE_URL
  valueFrom: {secretKeyRef: {name: {{ $external.urlSecret.name }}, key: {{ $external.urlSecret.key }}}}
{{- else if $external.url }}
- name: WATTMILL_DATABASE_URL
  value: {{ $external.url | quote }}
{{- if $external.passwordSecret.name }}
- name: WATTMILL_DATABASE_PASSWORD_FILE
  value: /etc/wattmill/database/password
{{- end }}
{{- else }}
{{- fail "database.external: url or urlSecret.name must say where the database is, because database.bundled.enabled is false" }}
{{- end }}
{{- if and (not (include "wattmill.bundledDatabase" .)) $external.caSecret.name }}
- name: PGSSLMODE
  value: verify-full
- name: PGSSLROOTCERT
  value: /etc/wattmill/database-ca/ca.crt
{{- end }}
{{- end }}

{{- define "wattmill.databaseMounts" -}}
{{- $external := .Values.database.external -}}
{{- if or (include "wattmill.bundledDatabase" .) (and $external.passwordSecret.name (not $external.urlSecret.name)) }}
- {name: database, mountPath: /etc/wattmill/database, readOnly: true}
{{- end }}
{{- if and (not (include "wattmill.bundledDatabase" .)) $external.caSecret.name }}
- {name: database-ca, mountPath: /etc/wattmill/database-ca, readOnly: true}
{{- end }}
{{- end }}

{{- define "wattmill.databaseVolumes" -}}
{{- $external := .Values.database.external -}}
{{- if include "wattmill.bundledDatabase" . }}
- name: database
  secret:
    secretName: {{ include "wattmill.databaseSecret" . }}
    defaultMode: 0440
    items: [{key: password, path: password}]
{{- else }}
{{- if and $external.passwordSecret.name (not $external.urlSecret.name) }}
- name: database
  secret:
    secretName: {{ $external.passwordSecret.name }}
    defaultMode: 0440
    items: [{key: {{ $external.passwordSecret.key }}, path: password}]
{{- end }}
{{- with $external.caSecret }}
{{- if .name }}
- name: database-ca
  secret:
    secretName: {{ .name }}
    defaultMode: 0440
    items: [{key: {{ .key }}, path: ca.crt}]
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* Whether the pods leave the schema to the Job. The bundled database isn't there before the first install, so there they see to it. */}}
{{- define "wattmill.podsMigrate" -}}
{{- if or (include "wattmill.bundledDatabase" .) (not .Values.database.migrations.hook) }}true{{ else }}false{{ end }}
{{- end }}

{{/* The pod of `wattmill serve`: (dict "context" . "part" "api" "jobs" false). */}}
{{- define "wattmill.servePod" -}}
{{- $context := .context -}}
{{- $part := index $context.Values.service .part -}}
{{- with $context.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
serviceAccountName: {{ include "wattmill.serviceAccount" $context }}
automountServiceAccountToken: false
# Kubernetes would put WATTMILL_PORT=tcp://… into the environment, and Wattmill reads that name.
enableServiceLinks: false
terminationGracePeriodSeconds: 60
securityContext:
  {{- include "wattmill.podSecurity" $context | nindent 2 }}
{{- with $part.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
containers:
  - name: {{ .part }}
    image: {{ include "wattmill.image" (list $context $context.Values.service.image) }}
    imagePullPolicy: {{ $context.Values.service.image.pullPolicy }}
    command: [wattmill]
    args: [serve]
    env:
      - {name: WATTMILL_HOST, value: "0.0.0.0"}
      - {name: WATTMILL_PORT, value: "8080"}
      - {name: WATTMILL_JOBS, value: "{{ .jobs }}"}
      - {name: WATTMILL_MIGRATE, value: "{{ include "wattmill.podsMigrate" $context }}"}
      - {name: WATTMILL_GIVEN_KEYS, value: /etc/wattmill/keys}
      {{- with include "wattmill.databaseEnv" $context | trim }}{{ . | nindent 6 }}{{ end }}
      - name: WATTMILL_EXTERNAL_URL
        value: {{ $context.Values.service.externalUrl | quote }}
      - name: WATTMILL_RUNBOOKS_URL
        value: {{ $context.Values.service.runbooksUrl | quote }}
      {{- range $name, $value := $context.Values.service.settings }}
      - name: WATTMILL_{{ upper $name }}
        value: {{ include "wattmill.text" $value | quote }}
      {{- end }}
      {{- with $context.Values.service.webhooks }}
      {{- if .enabled }}
      - name: WATTMILL_WEBHOOK_ALLOW
        value: {{ .allow | quote }}
      {{- if .existingSecret }}
      - {name: WATTMILL_WEBHOOK_SECRETS, value: /etc/wattmill/webhooks}
      {{- if .signingEntry }}
      - name: WATTMILL_WEBHOOK_SECRET
        valueFrom: {secretKeyRef: {name: {{ .existingSecret }}, key: {{ .signingEntry }}}}
      {{- end }}
      {{- end }}
      {{- end }}
      {{- end }}
      {{- with $context.Values.service.extraEnv }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
    ports:
      - {name: http, containerPort: 8080}
    # The kernels are loaded before the first answer where jobs run, so a start may take a while on a busy node.
    startupProbe:
      httpGet: {path: /healthz, port: http}
      periodSeconds: 2
      failureThreshold: 60
      timeoutSeconds: 5
    # Says nothing of the database: a restart would not bring that back.
    livenessProbe:
      httpGet: {path: /healthz, port: http}
      periodSeconds: 15
      failureThreshold: 6
      timeoutSeconds: 10
    readinessProbe:
      httpGet: {path: /readyz, port: http}
      periodSeconds: 5
      failureThreshold: 3
      timeoutSeconds: 6
    {{- if semverCompare ">=1.30-0" $context.Capabilities.KubeVersion.Version }}
    # Until every node knows that this pod has left the Service.
    lifecycle:
      preStop: {sleep: {seconds: 5}}
    {{- end }}
    securityContext:
      {{- include "wattmill.containerSecurity" $context | nindent 6 }}
    resources:
      {{- toYaml $part.resources | nindent 6 }}
    volumeMounts:
      - {name: tmp, mountPath: /tmp}
      - {name: keys, mountPath: /etc/wattmill/keys, readOnly: true}
      {{- with include "wattmill.databaseMounts" $context | trim }}{{ . | nindent 6 }}{{ end }}
      {{- if and $context.Values.service.webhooks.enabled $context.Values.service.webhooks.existingSecret }}
      - {name: webhooks, mountPath: /etc/wattmill/webhooks, readOnly: true}
      {{- end }}
      {{- with $context.Values.service.extraVolumeMounts }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
volumes:
  - name: tmp
    emptyDir: {sizeLimit: 256Mi}
  - name: keys
    secret:
      secretName: {{ include "wattmill.keysSecret" $context }}
      defaultMode: 0440
      items:
        - {key: agents, path: agents}
        - {key: prometheus, path: prometheus}
        - {key: admin, path: admin}
  {{- with include "wattmill.databaseVolumes" $context | trim }}{{ . | nindent 2 }}{{ end }}
  {{- if and $context.Values.service.webhooks.enabled $context.Values.service.webhooks.existingSecret }}
  - name: webhooks
    secret:
      secretName: {{ $context.Values.service.webhooks.existingSecret }}
      defaultMode: 0440
  {{- end }}
  {{- with $context.Values.service.extraVolumes }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
topologySpreadConstraints:
  {{- include "wattmill.spread" (list $context .part $part.topologySpreadConstraints) | trim | nindent 2 }}
{{- with $part.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $part.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $part.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
