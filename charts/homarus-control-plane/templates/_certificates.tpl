{{- /*
Who makes which certificate.

Identity: either the values (or somebody whom they name) provide the issuer and the trust anchors, or nobody does; then identity
is "managed": the identity controller makes both, keeps them in the cluster and renews them, and this chart renders none of them.
The same holds for the serving certificate of each webhook. What is half given is an error here, not at the first handshake.
*/}}

{{- /* "yes" if the identity controller makes issuer and trust anchors. */}}
{{- define "homarus.identity.managed" -}}
{{- $issuer := .Values.identity.issuer }}
{{- $anchors := trim (.Values.identityTrustAnchorsPEM | default "") }}
{{- $crt := trim (($issuer.tls).crtPEM | default "") }}
{{- $key := trim (($issuer.tls).keyPEM | default "") }}
{{- if not (or .Values.identity.externalCA (ne $issuer.scheme "linkerd.io/tls") $anchors $crt $key) -}}
yes
{{- end }}
{{- end }}

{{- /* Fails if the identity's certificates are only half given. */}}
{{- define "homarus.identity.check" -}}
{{- if not (include "homarus.identity.managed" .) }}
{{- $issuer := .Values.identity.issuer }}
{{- $otherwise := "or give no certificate at all, then the mesh makes them" }}
{{- if and (not .Values.identity.externalCA) (not (trim (.Values.identityTrustAnchorsPEM | default ""))) }}
{{- $remedy := "set identity.externalCA if something else provides ConfigMap linkerd-identity-trust-roots" }}
{{- fail (printf "identityTrustAnchorsPEM is missing: give the roots that the issuer leads to; or %s; %s" $remedy $otherwise) }}
{{- end }}
{{- if eq $issuer.scheme "linkerd.io/tls" }}
{{- if not (and (trim (($issuer.tls).crtPEM | default "")) (trim (($issuer.tls).keyPEM | default ""))) }}
{{- $remedy := "set identity.issuer.scheme to kubernetes.io/tls if something else provides Secret linkerd-identity-issuer" }}
{{- fail (printf "identity.issuer.tls.crtPEM and identity.issuer.tls.keyPEM are both needed; or %s; %s" $remedy $otherwise) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- /* "yes" if a webhook's own controller makes its certificate. Of the webhook's values. */}}
{{- define "homarus.webhook.managed" -}}
{{- if not (or .externalSecret (trim (.crtPEM | default ""))) -}}
yes
{{- end }}
{{- end }}

{{- /* Fails if a webhook's certificate is only half given: "name" is the webhook's key in the values. */}}
{{- define "homarus.webhook.check" -}}
{{- $webhook := get .root.Values .name | default dict }}
{{- $inject := or $webhook.injectCaFrom $webhook.injectCaFromSecret }}
{{- $bundle := trim ($webhook.caBundle | default "") }}
{{- if and $webhook.injectCaFrom $webhook.injectCaFromSecret }}
{{- fail (printf "%s: injectCaFrom and injectCaFromSecret can't both be set" .name) }}
{{- end }}
{{- if and $inject $bundle }}
{{- fail (printf "%s: caBundle can't be set together with injectCaFrom or injectCaFromSecret" .name) }}
{{- end }}
{{- if and $inject (not $webhook.externalSecret) }}
{{- fail (printf "%s: injectCaFrom and injectCaFromSecret need externalSecret, because the certificate is made elsewhere" .name) }}
{{- end }}
{{- if and $webhook.externalSecret (not $inject) (not $bundle) }}
{{- $remedy := "set caBundle, injectCaFrom or injectCaFromSecret, so that the API server can trust the webhook" }}
{{- fail (printf "%s: externalSecret is not enough: %s" .name $remedy) }}
{{- end }}
{{- if not $webhook.externalSecret }}
{{- $crt := trim ($webhook.crtPEM | default "") }}
{{- $key := trim ($webhook.keyPEM | default "") }}
{{- if or (and $crt (not $key)) (and $key (not $crt)) }}
{{- fail (printf "%s: crtPEM and keyPEM have to be set together" .name) }}
{{- end }}
{{- if and $bundle (not $crt) }}
{{- fail (printf "%s: caBundle needs crtPEM and keyPEM, or externalSecret" .name) }}
{{- end }}
{{- end }}
{{- end }}

{{- /* The Secret of a webhook's certificate, if the values hold one: name, service, component. */}}
{{- define "homarus.webhook.secret" -}}
{{- include "homarus.webhook.check" . }}
{{- $webhook := get .root.Values .name | default dict }}
{{- if and (not $webhook.externalSecret) (not (include "homarus.webhook.managed" $webhook)) }}
---
apiVersion: v1
kind: Secret
metadata:
  {{- include "homarus.metadata" (dict "root" .root "component" .component "name" (printf "%s-k8s-tls" .service)) | nindent 2 }}
type: kubernetes.io/tls
data:
  tls.crt: {{ trim $webhook.crtPEM | b64enc }}
  tls.key: {{ trim $webhook.keyPEM | b64enc }}
{{- end }}
{{- end }}

{{- /* A webhook configuration's metadata: name, service, component. */}}
{{- define "homarus.webhook.metadata" -}}
{{- $webhook := get .root.Values .name | default dict }}
{{- $annotations := dict }}
{{- with $webhook.injectCaFrom }}
{{- $annotations = dict "cert-manager.io/inject-ca-from" . }}
{{- end }}
{{- with $webhook.injectCaFromSecret }}
{{- $annotations = dict "cert-manager.io/inject-ca-from-secret" . }}
{{- end }}
{{- $name := printf "%s-webhook-config" .service }}
{{- include "homarus.metadata" (dict "root" .root "component" .component "name" $name "clusterWide" true "annotations" $annotations) }}
{{- end }}

{{- /* How the API server reaches a webhook and what it trusts: name, service. */}}
{{- define "homarus.webhook.client" -}}
{{- $webhook := get .root.Values .name | default dict -}}
service:
  name: {{ .service }}
  namespace: {{ .root.Release.Namespace }}
  path: /
{{- if not (or $webhook.injectCaFrom $webhook.injectCaFromSecret) }}
{{- with trim ($webhook.caBundle | default $webhook.crtPEM | default "") }}
caBundle: {{ b64enc . }}
{{- end }}
{{- end }}
{{- end }}

{{- /*
What a controller needs to make the certificate of its webhook and to tell the API server: secret, kind and configuration. Rules
of its namespace and of the cluster; creating can't be limited to a name.
*/}}
{{- define "homarus.webhook.rules" -}}
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, list, watch, update, patch]
  resourceNames: [{{ .service }}-k8s-tls]
{{- end }}

{{- define "homarus.webhook.cluster-rules" -}}
- apiGroups: [admissionregistration.k8s.io]
  resources: [{{ .kind }}]
  verbs: [get, list, watch, patch]
  resourceNames: [{{ .service }}-webhook-config]
{{- end }}
