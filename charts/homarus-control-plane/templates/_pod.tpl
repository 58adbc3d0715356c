{{- /* Parts of the control plane's Deployments and pods. */}}

{{- define "homarus.deployment.metadata" -}}
{{- $labels := include "homarus.app-labels" . -}}
name: linkerd-{{ .component }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- $labels | nindent 2 }}
  {{- include "homarus.labels" . | nindent 2 }}
annotations:
  {{- include "homarus.created-by" .root | nindent 2 }}
{{- end }}

{{- /* How many pods and how they are replaced. */}}
{{- define "homarus.deployment.rollout" -}}
replicas: {{ .Values.controllerReplicas }}
revisionHistoryLimit: {{ .Values.revisionHistoryLimit }}
{{- with .Values.deploymentStrategy }}
strategy:
  {{- toYaml (mergeOverwrite (dict "type" "RollingUpdate") .) | nindent 2 }}
{{- end }}
{{- end }}

{{- /* Pod labels. A Deployment's selector can't change: what it selects by is what Linkerd's selects by. */}}
{{- define "homarus.pod.labels" -}}
linkerd.io/control-plane-component: {{ .component }}
linkerd.io/control-plane-ns: {{ .root.Release.Namespace }}
linkerd.io/proxy-deployment: linkerd-{{ .component }}
linkerd.io/workload-ns: {{ .root.Release.Namespace }}
{{- with .root.Values.podLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- /* Pod annotations: those of every pod, then those of the component ("annotations"). */}}
{{- define "homarus.pod.annotations" -}}
{{ include "homarus.created-by" .root }}
linkerd.io/proxy-version: {{ include "homarus.proxy.version" .root | quote }}
{{- with trim (.root.Values.identityTrustAnchorsPEM | default "") }}
linkerd.io/trust-root-sha256: {{ sha256sum . }}
{{- end }}
{{- /* Webhook calls come from outside of the cluster's networks; the proxy must not refuse them. */}}
config.linkerd.io/default-inbound-policy: all-unauthenticated
{{- /* Its volumes hold nothing that a new pod couldn't get again. */}}
cluster-autoscaler.kubernetes.io/safe-to-evict: "true"
{{- with mergeOverwrite dict (.root.Values.podAnnotations | default dict) (.annotations | default dict) }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- /* Where pods may run. */}}
{{- define "homarus.pod.placement" -}}
{{- $values := .root.Values -}}
nodeSelector:
  {{- toYaml $values.nodeSelector | nindent 2 }}
{{- with $values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $values.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- if or $values.enablePodAntiAffinity $values.nodeAffinity }}
affinity:
  {{- with $values.nodeAffinity }}
  nodeAffinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if $values.enablePodAntiAffinity }}
  podAntiAffinity:
    requiredDuringSchedulingIgnoredDuringExecution:
      - topologyKey: kubernetes.io/hostname
        labelSelector:
          matchExpressions:
            - { key: linkerd.io/control-plane-component, operator: In, values: [{{ .component }}] }
    preferredDuringSchedulingIgnoredDuringExecution:
      - weight: 100
        podAffinityTerm:
          topologyKey: topology.kubernetes.io/zone
          labelSelector:
            matchExpressions:
              - { key: linkerd.io/control-plane-component, operator: In, values: [{{ .component }}] }
  {{- end }}
{{- end }}
{{- end }}

{{- /* A controller's access to the API server: a token of its own that is renewed hourly, and nothing for its proxy. */}}
{{- define "homarus.pod.api-access" -}}
- name: kube-api-access
  projected:
    defaultMode: 420
    sources:
      - serviceAccountToken:
          expirationSeconds: 3607
          path: token
      - configMap:
          name: kube-root-ca.crt
          items:
            - { key: ca.crt, path: ca.crt }
      - downwardAPI:
          items:
            - path: namespace
              fieldRef:
                apiVersion: v1
                fieldPath: metadata.namespace
{{- end }}

{{- define "homarus.pod.api-access.mount" -}}
- name: kube-api-access
  mountPath: /var/run/secrets/kubernetes.io/serviceaccount
  readOnly: true
{{- end }}

{{- /* A webhook's certificate. While its controller has yet to make it, the Secret isn't there: volume, service, name. */}}
{{- define "homarus.pod.certificate" -}}
- name: {{ .volume }}
  secret:
    secretName: {{ .service }}-k8s-tls
    {{- if include "homarus.webhook.managed" (get .root.Values .name | default dict) }}
    optional: true
    {{- end }}
{{- end }}
