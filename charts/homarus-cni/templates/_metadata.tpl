{{- /*
In a copy of Linkerd's values the image is Linkerd's plugin, of a version of its own, whose installer isn't what this chart starts: ours
takes its place.
*/}}
{{- define "homarus-cni.version" -}}
{{- if eq (toString .Values.image.name) "cr.l5d.io/linkerd/cni-plugin" -}}
{{ .Chart.AppVersion }}
{{- else -}}
{{ .Values.image.version | default .Chart.AppVersion }}
{{- end }}
{{- end }}

{{- define "homarus-cni.image" -}}
{{- $theirs := eq (toString .Values.image.name) "cr.l5d.io/linkerd/cni-plugin" -}}
{{ ternary "ghcr.io/homarus-mesh/homarus-redirect" .Values.image.name $theirs }}:{{ include "homarus-cni.version" . }}
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
