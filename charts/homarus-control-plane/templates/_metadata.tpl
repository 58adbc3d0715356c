{{- /*
Names, labels and annotations.

Helpers take either the root context or a dict. In a dict, "root" is the root context and "component" the value of the label
linkerd.io/control-plane-component.
*/}}

{{- /* The version of the mesh. In a copy of Linkerd's values it is one of Linkerd's, for which there is no image of ours. */}}
{{- define "homarus.version" -}}
{{- $version := toString (.Values.linkerdVersion | default "") }}
{{- if or (not $version) (hasPrefix "edge-" $version) (hasPrefix "stable-" $version) (eq $version "linkerdVersionValue") -}}
{{ .Chart.AppVersion }}
{{- else -}}
{{ $version }}
{{- end }}
{{- end }}

{{- define "homarus.proxy.version" -}}
{{ .Values.proxy.image.version | default (include "homarus.version" .) }}
{{- end }}

{{- /* The name of an image {name, version}. In a copy of Linkerd's values it is Linkerd's, without a tag of our version. */}}
{{- define "homarus.image-name" -}}
{{- if .version -}}
{{ .name }}
{{- else -}}
{{ replace "cr.l5d.io/linkerd/" "ghcr.io/homarus-mesh/" .name }}
{{- end }}
{{- end }}

{{- define "homarus.proxy.image" -}}
{{ include "homarus.image-name" .Values.proxy.image }}:{{ include "homarus.proxy.version" . }}
{{- end }}

{{- define "homarus.controller.image" -}}
{{ include "homarus.image-name" (dict "name" .Values.controllerImage) }}:{{ .Values.controllerImageVersion | default (include "homarus.version" .) }}
{{- end }}

{{- define "homarus.trust-domain" -}}
{{ .Values.identityTrustDomain | default .Values.clusterDomain }}
{{- end }}

{{- define "homarus.created-by" -}}
{{- $version := include "homarus.version" . -}}
linkerd.io/created-by: {{ .Values.cliVersion | default (printf "linkerd/%s %s" (lower .Release.Service) $version) }}
{{- end }}

{{- define "homarus.labels" -}}
linkerd.io/control-plane-ns: {{ .root.Release.Namespace }}
{{- with .component }}
linkerd.io/control-plane-component: {{ . }}
{{- end }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- /*
The inside of an object's metadata:

  name
  clusterWide   true for objects that have no namespace
  labels        more labels
  annotations   more annotations
*/}}
{{- define "homarus.metadata" -}}
name: {{ .name }}
{{- if not .clusterWide }}
namespace: {{ .root.Release.Namespace }}
{{- end }}
labels:
  {{- include "homarus.labels" . | nindent 2 }}
  {{- with .labels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
annotations:
  {{- include "homarus.created-by" .root | nindent 2 }}
  {{- with .annotations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{- /* What people and dashboards know a workload by. */}}
{{- define "homarus.app-labels" -}}
app.kubernetes.io/name: {{ .component }}
app.kubernetes.io/part-of: Linkerd
app.kubernetes.io/version: {{ include "homarus.version" .root | quote }}
{{- end }}

{{- define "homarus.service-account" -}}
apiVersion: v1
kind: ServiceAccount
metadata:
  {{- include "homarus.metadata" (dict "root" .root "component" .component "name" (printf "linkerd-%s" .component)) | nindent 2 }}
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- /* The subject of a binding. */}}
{{- define "homarus.subject" -}}
kind: ServiceAccount
name: linkerd-{{ .component }}
namespace: {{ .root.Release.Namespace }}
{{- end }}
