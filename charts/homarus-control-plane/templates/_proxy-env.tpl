{{- /*
The environment of a controller's own proxy (see _proxy.tpl for the dict). The order counts: a variable may refer to earlier ones.
*/}}
{{- define "homarus.proxy.env" -}}
{{- $values := .root.Values -}}
{{- $proxy := $values.proxy -}}
{{- $namespace := .root.Release.Namespace -}}
{{- $domain := $values.clusterDomain -}}
{{- $trustDomain := include "homarus.trust-domain" .root -}}
{{- $withoutHeaders := ternary "" ",[{headers}]=off,[{request}]=off" (eq (toString $proxy.logHTTPHeaders) "insecure") -}}
{{- $projected := $values.identity.serviceAccountTokenProjection -}}
{{- $tokens := "/var/run/secrets" -}}
{{- $identities := printf "%s.serviceaccount.identity.%s.%s" $namespace $namespace $trustDomain -}}
{{- $any := ternary "0.0.0.0" "[::]" $values.disableIPv6 -}}
{{- $own := .resources | default dict -}}
- name: _pod_name
  valueFrom: { fieldRef: { fieldPath: metadata.name } }
- name: _pod_ns
  valueFrom: { fieldRef: { fieldPath: metadata.namespace } }
- name: _pod_uid
  valueFrom: { fieldRef: { fieldPath: metadata.uid } }
- name: _pod_ip
  valueFrom: { fieldRef: { fieldPath: status.podIP } }
- name: _pod_nodeName
  valueFrom: { fieldRef: { fieldPath: spec.nodeName } }
- name: _pod_containerName
  value: linkerd-proxy
{{- with $own.cores | default $proxy.cores }}
- name: LINKERD2_PROXY_CORES
  value: {{ quote . }}
- name: LINKERD2_PROXY_CORES_MIN
  value: {{ quote . }}
{{- else }}
{{- $workers := ($proxy.runtime).workers | default dict }}
- name: LINKERD2_PROXY_CORES
  value: {{ $workers.minimum | default 1 | quote }}
- name: LINKERD2_PROXY_CORES_MIN
  value: {{ $workers.minimum | default 1 | quote }}
{{- with $workers.maximum }}
- name: LINKERD2_PROXY_CORES_MAX
  value: {{ quote . }}
{{- end }}
{{- with $workers.maximumCPURatio }}
- name: LINKERD2_PROXY_CORES_MAX_RATIO
  value: {{ quote . }}
{{- end }}
{{- end }}
{{- with $proxy.requireIdentityOnInboundPorts }}
- name: LINKERD2_PROXY_INBOUND_PORTS_REQUIRE_IDENTITY
  value: {{ quote . }}
{{- end }}
{{- with .requireTls }}
- name: LINKERD2_PROXY_INBOUND_PORTS_REQUIRE_TLS
  value: {{ quote . }}
{{- end }}
- name: LINKERD2_PROXY_SHUTDOWN_ENDPOINT_ENABLED
  value: {{ quote $proxy.enableShutdownEndpoint }}
- name: LINKERD2_PROXY_LOG
  value: {{ printf "%s%s" $proxy.logLevel $withoutHeaders | quote }}
- name: LINKERD2_PROXY_LOG_FORMAT
  value: {{ quote $proxy.logFormat }}
- name: LINKERD2_PROXY_DESTINATION_SVC_ADDR
  value: {{ ternary "localhost.:8086" (printf "linkerd-dst-headless.%s.svc.%s.:8086" $namespace $domain) (eq .component "destination") }}
- name: LINKERD2_PROXY_DESTINATION_PROFILE_NETWORKS
  value: {{ quote $values.clusterNetworks }}
- name: LINKERD2_PROXY_POLICY_SVC_ADDR
  value: {{ ternary "localhost.:8090" (printf "linkerd-policy.%s.svc.%s.:8090" $namespace $domain) (eq .component "destination") }}
- name: LINKERD2_PROXY_POLICY_WORKLOAD
  value: |
    {"ns":"$(_pod_ns)", "pod":"$(_pod_name)"}
- name: LINKERD2_PROXY_INBOUND_DEFAULT_POLICY
  value: all-unauthenticated
{{- /* The policy controller starts after these pods, or in one of them: their probes can't wait for it. */}}
- name: LINKERD2_PROXY_INBOUND_POLICY_INITIAL_TIMEOUT
  value: 0s
- name: LINKERD2_PROXY_POLICY_CLUSTER_NETWORKS
  value: {{ quote $values.clusterNetworks }}
{{- with ($proxy.control).streams }}
- name: LINKERD2_PROXY_CONTROL_STREAM_INITIAL_TIMEOUT
  value: {{ quote .initialTimeout }}
- name: LINKERD2_PROXY_CONTROL_STREAM_IDLE_TIMEOUT
  value: {{ quote .idleTimeout }}
- name: LINKERD2_PROXY_CONTROL_STREAM_LIFETIME
  value: {{ quote .lifetime }}
{{- end }}
{{- with $proxy.inboundConnectTimeout }}
- name: LINKERD2_PROXY_INBOUND_CONNECT_TIMEOUT
  value: {{ quote . }}
{{- end }}
{{- with $proxy.outboundConnectTimeout }}
- name: LINKERD2_PROXY_OUTBOUND_CONNECT_TIMEOUT
  value: {{ quote . }}
{{- end }}
- name: LINKERD2_PROXY_OUTBOUND_DISCOVERY_IDLE_TIMEOUT
  value: 5s
- name: LINKERD2_PROXY_INBOUND_DISCOVERY_IDLE_TIMEOUT
  value: 90s
{{- if $proxy.disableOutboundProtocolDetectTimeout }}
- name: LINKERD2_PROXY_OUTBOUND_DETECT_TIMEOUT
  value: 365d
{{- end }}
{{- if $proxy.disableInboundProtocolDetectTimeout }}
- name: LINKERD2_PROXY_INBOUND_DETECT_TIMEOUT
  value: 365d
{{- end }}
- name: LINKERD2_PROXY_CONTROL_LISTEN_ADDR
  value: "{{ $any }}:{{ $proxy.ports.control }}"
- name: LINKERD2_PROXY_ADMIN_LISTEN_ADDR
  value: "{{ $any }}:{{ $proxy.ports.admin }}"
- name: LINKERD2_PROXY_OUTBOUND_LISTEN_ADDR
  value: 127.0.0.1:{{ $proxy.ports.outbound }}
- name: LINKERD2_PROXY_OUTBOUND_LISTEN_ADDRS
  value: 127.0.0.1:{{ $proxy.ports.outbound }}{{ if not $values.disableIPv6 }},[::1]:{{ $proxy.ports.outbound }}{{ end }}
- name: LINKERD2_PROXY_INBOUND_LISTEN_ADDR
  value: "{{ $any }}:{{ $proxy.ports.inbound }}"
- name: LINKERD2_PROXY_INBOUND_IPS
  valueFrom: { fieldRef: { fieldPath: status.podIPs } }
- name: LINKERD2_PROXY_INBOUND_PORTS
  value: {{ quote .inboundPorts }}
- name: LINKERD2_PROXY_DESTINATION_PROFILE_SUFFIXES
  value: {{ ternary "." (printf "svc.%s." $domain) $proxy.enableExternalProfiles | quote }}
- name: LINKERD2_PROXY_INBOUND_ACCEPT_KEEPALIVE
  value: 10000ms
- name: LINKERD2_PROXY_OUTBOUND_CONNECT_KEEPALIVE
  value: 10000ms
- name: LINKERD2_PROXY_INBOUND_ACCEPT_USER_TIMEOUT
  value: 30s
- name: LINKERD2_PROXY_OUTBOUND_CONNECT_USER_TIMEOUT
  value: 30s
- name: LINKERD2_PROXY_OUTBOUND_METRICS_HOSTNAME_LABELS
  value: {{ ($proxy.metrics).hostnameLabels | default false | quote }}
{{- if ($proxy.tracing).enabled }}
{{- $tracing := $proxy.tracing }}
{{- $collector := $tracing.collector }}
{{- $account := required "proxy.tracing needs proxy.tracing.collector.meshIdentity.serviceAccountName" $collector.meshIdentity.serviceAccountName }}
{{- $accountNamespace := required "proxy.tracing needs proxy.tracing.collector.meshIdentity.namespace" $collector.meshIdentity.namespace }}
- name: LINKERD2_PROXY_TRACE_ATTRIBUTES_PATH
  value: /var/run/linkerd/podinfo/labels
- name: LINKERD2_PROXY_TRACE_ANNOTATIONS_PATH
  value: /var/run/linkerd/podinfo/annotations
- name: LINKERD2_PROXY_TRACE_PROTOCOL
  value: {{ $tracing.protocol | default "opentelemetry" }}
- name: LINKERD2_PROXY_TRACE_SERVICE_NAME
  value: {{ $tracing.traceServiceName }}
- name: LINKERD2_PROXY_TRACE_COLLECTOR_SVC_ADDR
  value: {{ required "proxy.tracing needs proxy.tracing.collector.endpoint" $collector.endpoint }}
- name: LINKERD2_PROXY_TRACE_COLLECTOR_SVC_NAME
  value: {{ $account }}.{{ $accountNamespace }}.serviceaccount.identity.{{ $namespace }}.{{ $trustDomain }}
- name: LINKERD2_PROXY_TRACE_EXTRA_ATTRIBUTES
  value: |
    {{- range $name, $value := $tracing.labels }}
    {{ $name }}={{ $value }}
    {{- end }}
{{- end }}
{{- range $direction := list "inbound" "outbound" }}
{{- range $scope, $protocols := get $proxy $direction | default dict }}
{{- range $protocol, $parameters := $protocols }}
{{- range $parameter, $value := $parameters }}
- name: LINKERD2_PROXY_{{ printf "%s_%s_%s_%s" $direction (snakecase $scope) (snakecase $protocol) (snakecase $parameter) | upper }}
  value: {{ quote $value }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- with $proxy.opaquePorts }}
- name: LINKERD2_PROXY_INBOUND_PORTS_DISABLE_PROTOCOL_DETECTION
  value: {{ quote . }}
{{- end }}
- name: LINKERD2_PROXY_DESTINATION_CONTEXT
  value: |
    {"ns":"$(_pod_ns)", "nodeName":"$(_pod_nodeName)", "pod":"$(_pod_name)"}
- name: _pod_sa
  valueFrom: { fieldRef: { fieldPath: spec.serviceAccountName } }
- name: _l5d_ns
  value: {{ $namespace }}
- name: _l5d_trustdomain
  value: {{ $trustDomain }}
- name: LINKERD2_PROXY_IDENTITY_DIR
  value: /var/run/linkerd/identity/end-entity
- name: LINKERD2_PROXY_IDENTITY_TRUST_ANCHORS
  valueFrom: { configMapKeyRef: { name: linkerd-identity-trust-roots, key: ca-bundle.crt } }
- name: LINKERD2_PROXY_IDENTITY_TOKEN_FILE
  value: {{ $tokens }}/{{ ternary "tokens/linkerd-identity-token" "kubernetes.io/serviceaccount/token" $projected }}
- name: LINKERD2_PROXY_IDENTITY_SVC_ADDR
  value: {{ ternary "localhost.:8080" (printf "linkerd-identity-headless.%s.svc.%s.:8080" $namespace $domain) (eq .component "identity") }}
- name: LINKERD2_PROXY_IDENTITY_LOCAL_NAME
  value: $(_pod_sa).$(_pod_ns).serviceaccount.identity.{{ $namespace }}.{{ $trustDomain }}
- name: LINKERD2_PROXY_IDENTITY_SVC_NAME
  value: linkerd-identity.{{ $identities }}
- name: LINKERD2_PROXY_DESTINATION_SVC_NAME
  value: linkerd-destination.{{ $identities }}
- name: LINKERD2_PROXY_POLICY_SVC_NAME
  value: linkerd-destination.{{ $identities }}
{{- with $proxy.accessLog }}
- name: LINKERD2_PROXY_ACCESS_LOG
  value: {{ quote . }}
{{- end }}
{{- with $proxy.shutdownGracePeriod }}
- name: LINKERD2_PROXY_SHUTDOWN_GRACE_PERIOD
  value: {{ quote . }}
{{- end }}
{{- include "homarus.additional-env" $proxy }}
{{- end }}
