{{- define "homarus-cni.version" -}}
{{ .Values.image.version | default .Chart.AppVersion }}
{{- end }}

{{- define "homarus-cni.created-by" -}}
linkerd.io/created-by: {{ .Values.cliVersion | default (printf "linkerd/%s %s" (lower .Release.Service) (include "homarus-cni.version" .)) }}
{{- end }}

{{- define "homarus-cni.labels" -}}
linkerd.io/cni-resource: "true"
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "homarus-cni.amounts" -}}
{{- range $name, $amount := .resources }}
{{- with ($amount | default dict) }}
{{- with get . $.field }}
{{ $name }}: {{ quote . }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- /* A container's resources, as the values write them: {cpu: {request, limit}, memory: ..., ephemeral-storage: ...}. */}}
{{- define "homarus-cni.resources" -}}
{{- $limits := include "homarus-cni.amounts" (dict "resources" . "field" "limit") | trim }}
{{- $requests := include "homarus-cni.amounts" (dict "resources" . "field" "request") | trim }}
{{- if or $limits $requests -}}
resources:
  {{- with $limits }}
  limits:
    {{- . | nindent 4 }}
  {{- end }}
  {{- with $requests }}
  requests:
    {{- . | nindent 4 }}
  {{- end }}
{{- else -}}
resources: {}
{{- end }}
{{- end }}
