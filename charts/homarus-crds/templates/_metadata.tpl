{{- define "homarus-crds.created-by" -}}
{{ .Values.cliVersion | default (printf "linkerd/%s %s" (lower .Release.Service) .Chart.AppVersion) }}
{{- end }}

{{- /* "yes" if the kind of route is wanted: by its own value if that is set, else by installGatewayAPI. */}}
{{- define "homarus-crds.gateway-api" -}}
{{- if ternary (get .root.Values .value) .root.Values.installGatewayAPI (hasKey .root.Values .value) -}}
yes
{{- end }}
{{- end }}
