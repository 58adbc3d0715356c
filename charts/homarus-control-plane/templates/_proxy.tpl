{{- /*
The proxy of a controller's own pod. The injector never touches these pods, being one of them, so what it would add is written
here. A dict:

  root           the root context
  component      identity, destination or proxy-injector
  native         whether the proxy is a native sidecar
  await          whether the controllers wait for it
  inboundPorts   the controllers' ports
  requireTls     ports that never take plaintext, whatever the policy
  resources      what differs from proxy.resources, and "cores"

What differs from an ordinary pod: trust anchors come from their ConfigMap, so that they can change without a new pod spec; a
controller of the same pod is reached by localhost, so that the mesh can start without itself; the API server is reached
without the proxy.
*/}}
{{- define "homarus.proxy" -}}
{{- $values := .root.Values -}}
{{- $proxy := $values.proxy -}}
name: linkerd-proxy
image: {{ include "homarus.proxy.image" .root }}
imagePullPolicy: {{ $proxy.image.pullPolicy | default $values.imagePullPolicy }}
{{- if .native }}
restartPolicy: Always
{{- end }}
env:
  {{- include "homarus.proxy.env" . | nindent 2 }}
ports:
  - name: linkerd-proxy
    containerPort: {{ $proxy.ports.inbound }}
  - name: linkerd-admin
    containerPort: {{ $proxy.ports.admin }}
livenessProbe:
  httpGet:
    path: /live
    port: {{ $proxy.ports.admin }}
  {{- with $proxy.livenessProbe.initialDelaySeconds }}
  initialDelaySeconds: {{ . }}
  {{- end }}
  timeoutSeconds: {{ $proxy.livenessProbe.timeoutSeconds }}
readinessProbe:
  httpGet:
    path: /ready
    port: {{ $proxy.ports.admin }}
  {{- with $proxy.readinessProbe.initialDelaySeconds }}
  initialDelaySeconds: {{ . }}
  {{- end }}
  timeoutSeconds: {{ $proxy.readinessProbe.timeoutSeconds }}
{{- if and .native .await }}
startupProbe:
  httpGet:
    path: /ready
    port: {{ $proxy.ports.admin }}
  {{- with $proxy.startupProbe.initialDelaySeconds }}
  initialDelaySeconds: {{ . }}
  {{- end }}
  periodSeconds: {{ $proxy.startupProbe.periodSeconds }}
  failureThreshold: {{ $proxy.startupProbe.failureThreshold }}
{{- else if .await }}
lifecycle:
  postStart:
    exec:
      command: [/usr/lib/linkerd/linkerd-await, --timeout=2m, --port={{ $proxy.ports.admin }}]
{{- end }}
{{ include "homarus.resources" (merge (omit (.resources | default dict) "cores" | deepCopy) ($proxy.resources | default dict)) }}
securityContext:
  {{- include "homarus.proxy.security" $proxy | nindent 2 }}
terminationMessagePolicy: FallbackToLogsOnError
volumeMounts:
  - name: linkerd-identity-end-entity
    mountPath: /var/run/linkerd/identity/end-entity
  {{- if $values.identity.serviceAccountTokenProjection }}
  - name: linkerd-identity-token
    mountPath: /var/run/secrets/tokens
  {{- else }}
  {{- include "homarus.pod.api-access.mount" . | nindent 2 }}
  {{- end }}
  {{- if ($proxy.tracing).enabled }}
  - name: linkerd-podinfo
    mountPath: /var/run/linkerd/podinfo
  {{- end }}
{{- end }}

{{- define "homarus.proxy.security" -}}
{{- if .securityContext -}}
{{ toYaml .securityContext }}
{{- else -}}
allowPrivilegeEscalation: false
capabilities:
  drop: [ALL]
readOnlyRootFilesystem: true
runAsNonRoot: true
runAsUser: {{ .uid }}
{{- if ge (int .gid) 0 }}
runAsGroup: {{ .gid }}
{{- end }}
seccompProfile:
  type: RuntimeDefault
{{- end }}
{{- end }}

{{- /* What the proxy and redirection keep outside of their images. Of the root context. */}}
{{- define "homarus.proxy.volumes" -}}
- name: linkerd-identity-end-entity
  emptyDir:
    medium: Memory
{{- if .Values.identity.serviceAccountTokenProjection }}
- name: linkerd-identity-token
  projected:
    sources:
      - serviceAccountToken:
          audience: identity.l5d.io
          expirationSeconds: 86400
          path: linkerd-identity-token
{{- end }}
{{- if (.Values.proxy.tracing).enabled }}
- name: linkerd-podinfo
  downwardAPI:
    items:
      - path: labels
        fieldRef:
          fieldPath: metadata.labels
      - path: annotations
        fieldRef:
          fieldPath: metadata.annotations
{{- end }}
{{- if not .Values.cniEnabled }}
- name: {{ .Values.proxyInit.xtMountPath.name }}
  emptyDir: {}
{{- end }}
{{- end }}

{{- /* What runs before everything else in the pod: redirection; or, with the CNI plugin, the proof that it happened. */}}
{{- define "homarus.redirection" -}}
{{- if .Values.cniEnabled }}
{{- include "homarus.network-validator" . }}
{{- else }}
{{- include "homarus.proxy-init" . }}
{{- end }}
{{- end }}

{{- define "homarus.proxy-init" -}}
{{- $init := .Values.proxyInit -}}
{{- $proxy := .Values.proxy -}}
{{- $privileged := or (gt (int $init.closeWaitTimeoutSecs) 0) $init.privileged -}}
{{- if not (has $init.iptablesMode (list "nft" "legacy")) }}
{{- fail (printf "proxyInit.iptablesMode is %q; it can be nft or legacy" $init.iptablesMode) }}
{{- end }}
{{- if and $init.closeWaitTimeoutSecs (not $init.runAsRoot) }}
{{- fail "proxyInit.closeWaitTimeoutSecs needs proxyInit.runAsRoot, because it changes a setting of the kernel" }}
{{- end -}}
name: linkerd-init
image: {{ include "homarus.proxy.image" . }}
imagePullPolicy: {{ $proxy.image.pullPolicy | default .Values.imagePullPolicy }}
command: [/usr/lib/linkerd/linkerd2-proxy-init]
args:
  {{- if eq $init.iptablesMode "nft" }}
  - --firewall-bin-path
  - iptables-nft
  - --firewall-save-bin-path
  - iptables-nft-save
  {{- end }}
  {{- if .Values.disableIPv6 }}
  - --ipv6=false
  {{- end }}
  - --incoming-proxy-port
  - {{ quote $proxy.ports.inbound }}
  - --outgoing-proxy-port
  - {{ quote $proxy.ports.outbound }}
  - --proxy-uid
  - {{ quote $proxy.uid }}
  {{- if ge (int $proxy.gid) 0 }}
  - --proxy-gid
  - {{ quote $proxy.gid }}
  {{- end }}
  - --inbound-ports-to-ignore
  - "{{ $proxy.ports.control }},{{ $proxy.ports.admin }}{{ with $init.ignoreInboundPorts }},{{ . }}{{ end }}"
  {{- with $init.kubeAPIServerPorts }}
  - --outbound-ports-to-ignore
  - {{ quote . }}
  {{- end }}
  {{- with $init.closeWaitTimeoutSecs }}
  - --timeout-close-wait-secs
  - {{ quote . }}
  {{- end }}
  {{- with $init.logFormat }}
  - --log-format
  - {{ . }}
  {{- end }}
  {{- with $init.logLevel }}
  - --log-level
  - {{ . }}
  {{- end }}
  {{- with $init.skipSubnets }}
  - --subnets-to-ignore
  - {{ quote . }}
  {{- end }}
{{ include "homarus.resources" $proxy.resources }}
securityContext:
  allowPrivilegeEscalation: {{ $privileged }}
  privileged: {{ $privileged }}
  capabilities:
    add: [NET_ADMIN, NET_RAW]
    drop: [ALL]
  readOnlyRootFilesystem: true
  {{- if $init.runAsRoot }}
  runAsNonRoot: false
  runAsUser: 0
  runAsGroup: 0
  {{- else }}
  runAsNonRoot: true
  runAsUser: {{ $init.runAsUser | default 65534 }}
  runAsGroup: {{ $init.runAsGroup | default 65534 }}
  {{- end }}
  seccompProfile:
    type: RuntimeDefault
terminationMessagePolicy: FallbackToLogsOnError
volumeMounts:
  - name: {{ $init.xtMountPath.name }}
    mountPath: {{ $init.xtMountPath.mountPath }}
{{- end }}

{{- define "homarus.network-validator" -}}
{{- $validator := .Values.networkValidator -}}
{{- $proxy := .Values.proxy -}}
name: linkerd-network-validator
image: {{ include "homarus.proxy.image" . }}
imagePullPolicy: {{ $proxy.image.pullPolicy | default .Values.imagePullPolicy }}
command: [/usr/lib/linkerd/linkerd2-network-validator]
args:
  - --log-format
  - {{ $validator.logFormat }}
  - --log-level
  - {{ $validator.logLevel }}
  - --connect-addr
  - {{ $validator.connectAddr | default (ternary "1.1.1.1:20001" "[fd00::1]:20001" .Values.disableIPv6) | quote }}
  - --listen-addr
  - {{ $validator.listenAddr | default (printf "%s:%v" (ternary "0.0.0.0" "[::]" .Values.disableIPv6) $proxy.ports.outbound) | quote }}
  - --timeout
  - {{ $validator.timeout }}
{{ include "homarus.resources" $proxy.resources }}
{{- with $validator.securityContext }}
securityContext:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
