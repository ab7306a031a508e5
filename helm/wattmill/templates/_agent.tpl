{{/* What each profile of the agent adds; values.yaml says why. Everything that lets the agent out of its pod is in this file. */}}

{{- define "wattmill.agentIsRoot" -}}
{{- if .Values.agent.profiles }}yes{{ end }}
{{- end }}

{{/* Capabilities, one a line. */}}
{{- define "wattmill.agentCapabilities" -}}
{{- if has "host-pid" .Values.agent.profiles }}
- SYS_PTRACE
- DAC_READ_SEARCH
{{- end }}
{{- if has "mig" .Values.agent.profiles }}
- SYS_ADMIN
{{- end }}
{{- end }}

{{- define "wattmill.agentContainerSecurity" -}}
{{- $capabilities := include "wattmill.agentCapabilities" . | trim -}}
# Kubernetes refuses SYS_ADMIN without it.
allowPrivilegeEscalation: {{ has "mig" .Values.agent.profiles }}
readOnlyRootFilesystem: true
runAsNonRoot: {{ not .Values.agent.profiles }}
capabilities:
  drop: [ALL]
  {{- if $capabilities }}
  add:
    {{- $capabilities | nindent 4 }}
  {{- end }}
{{- end }}

{{- define "wattmill.agentProfileMounts" -}}
{{- if has "pod-resources" .Values.agent.profiles }}
- {name: pod-resources, mountPath: /var/lib/kubelet/pod-resources, readOnly: true}
{{- end }}
{{- if has "rapl" .Values.agent.profiles }}
- {name: host-sys, mountPath: /host/sys, readOnly: true}
{{- end }}
{{- end }}

{{- define "wattmill.agentProfileVolumes" -}}
{{- if has "pod-resources" .Values.agent.profiles }}
- name: pod-resources
  hostPath: {path: /var/lib/kubelet/pod-resources, type: Directory}
{{- end }}
{{- if has "rapl" .Values.agent.profiles }}
- name: host-sys
  hostPath: {path: /sys, type: Directory}
{{- end }}
{{- end }}

{{/* The agent's own YAML: what was set in agent.config, and what only the chart can know. */}}
{{- define "wattmill.agentConfig" -}}
{{- $config := deepCopy .Values.agent.config }}
{{- $_ := set $config "server" (include "wattmill.server" .) }}
{{- $_ := set $config "key_file" "/etc/wattmill/keys/agents" }}
{{- $_ := set $config "listen" "0.0.0.0:9477" }}
{{- $_ := set $config "spool" (dict "path" "/var/lib/wattmill" "max_bytes" .Values.agent.spool.maxBytes "max_age" .Values.agent.spool.maxAge) }}
{{- if has "rapl" .Values.agent.profiles }}
{{- $_ := set $config "host_root" "/host" }}
{{- end }}
{{- toYaml $config }}
{{- end }}
