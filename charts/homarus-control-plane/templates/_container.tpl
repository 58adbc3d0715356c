{{- /* Parts of containers. */}}

{{- define "homarus.amounts" -}}
{{- range $name, $amount := .resources }}
{{- with ($amount | default dict) }}
{{- with get . $.field }}
{{ $name }}: {{ quote . }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- /* A container's resources, as the values write them: {cpu: {request, limit}, memory: ..., ephemeral-storage: ...}. */}}
{{- define "homarus.resources" -}}
{{- $limits := include "homarus.amounts" (dict "resources" . "field" "limit") | trim }}
{{- $requests := include "homarus.amounts" (dict "resources" . "field" "request") | trim }}
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

{{- /*
Everything of a controller's container that doesn't depend on what it does:

  adminPort   where it is probed
  livePath    what liveness asks for
  probes      values with livenessProbe and readinessProbe
  resources   values
*/}}
{{- define "homarus.controller" -}}
{{- $values := .root.Values -}}
image: {{ include "homarus.controller.image" .root }}
imagePullPolicy: {{ $values.imagePullPolicy }}
livenessProbe:
  httpGet:
    path: {{ .livePath }}
    port: {{ .adminPort }}
  initialDelaySeconds: 10
  timeoutSeconds: {{ ((.probes).livenessProbe).timeoutSeconds | default 1 }}
{{- /* As patient as seven probes of ten seconds, and quick to notice that a controller has become ready. */}}
readinessProbe:
  httpGet:
    path: /ready
    port: {{ .adminPort }}
  periodSeconds: 1
  failureThreshold: 70
  timeoutSeconds: {{ ((.probes).readinessProbe).timeoutSeconds | default 1 }}
{{ include "homarus.resources" .resources }}
securityContext:
  {{- include "homarus.controller.security" $values | nindent 2 }}
terminationMessagePolicy: FallbackToLogsOnError
{{- end }}

{{- define "homarus.controller.security" -}}
allowPrivilegeEscalation: false
capabilities:
  drop: [ALL]
readOnlyRootFilesystem: true
runAsNonRoot: true
runAsUser: {{ .controllerUID }}
{{- if ge (int .controllerGID) 0 }}
runAsGroup: {{ .controllerGID }}
{{- end }}
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- /* More variables and more arguments, which Linkerd's values allow for some controllers. */}}
{{- define "homarus.additional-env" -}}
{{- with .additionalEnv }}
{{ toYaml . }}
{{- end }}
{{- with .experimentalEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "homarus.additional-args" -}}
{{- range .additionalArgs }}
- {{ quote . }}
{{- end }}
{{- range .experimentalArgs }}
- {{ quote . }}
{{- end }}
{{- end }}

{{- /* Where controllers send their traces, if they do. */}}
{{- define "homarus.trace-args" -}}
{{- if ((.Values.controller).tracing).enabled }}
{{- $own := ((.Values.controller.tracing).collector).endpoint }}
{{- $proxies := (((.Values.proxy).tracing).collector).endpoint }}
- --trace-collector={{ required "controller.tracing needs controller.tracing.collector.endpoint or proxy.tracing.collector.endpoint" ($own | default $proxies) }}
{{- end }}
{{- end }}
