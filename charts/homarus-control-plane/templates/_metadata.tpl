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

{{- /*
The names of images, without tag. In a copy of Linkerd's values they are Linkerd's, which have no tag of our version: unless another
version is asked for, ours take their places.
*/}}
{{- define "homarus.proxy.image-name" -}}
{{- $image := .Values.proxy.image }}
{{- ternary "ghcr.io/homarus-mesh/homarus-proxy" $image.name (and (not $image.version) (eq (toString $image.name) "cr.l5d.io/linkerd/proxy")) }}
{{- end }}

{{- define "homarus.debug.image-name" -}}
{{- $image := .Values.debugContainer.image }}
{{- ternary "ghcr.io/homarus-mesh/homarus-debug" $image.name (and (not $image.version) (eq (toString $image.name) "cr.l5d.io/linkerd/debug")) }}
{{- end }}

{{- define "homarus.controller.image-name" -}}
{{- ternary "ghcr.io/homarus-mesh/homarus" .Values.controllerImage (eq (toString .Values.controllerImage) "cr.l5d.io/linkerd/controller") }}
{{- end }}

{{- define "homarus.proxy.image" -}}
{{ include "homarus.proxy.image-name" . }}:{{ include "homarus.proxy.version" . }}
{{- end }}

{{- define "homarus.controller.image" -}}
{{ include "homarus.controller.image-name" . }}:{{ .Values.controllerImageVersion | default (include "homarus.version" .) }}
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
