{{/* The settings of the controller: those of `settings`, lists of them with commas, then those that the chart sets. */}}
{{- define "venvd.environment" -}}
{{- $set := dict -}}
{{- range $name, $value := .Values.settings -}}
{{- $_ := set $set (snakecase $name | upper) (kindIs "slice" $value | ternary (join "," $value) $value) -}}
{{- end -}}
{{- $_ := mergeOverwrite $set (dict
  "ENGINE" "kubernetes"
  "HOST" "0.0.0.0"
  "PORT" "8600"
  "URL" (include "venvd.url" .)
  "HOME" "/var/lib/venvd"
  "RUN_DIR" "/run/venvd"
  "IDENTITY_DIR" "/etc/venvd/identity"
  "MANIFEST" "/etc/venvd/manifest/venvd.yaml"
  "KUBERNETES_LEASE" (empty (include "venvd.hasLease" .) | ternary "" (include "venvd.fullname" .))
  "BASE_IMAGE" .Values.baseImage
  "INDEX_URL" (empty .Values.index.existingSecret | ternary .Values.index.url "")
  "CA_BUNDLE" (empty .Values.ca.configMap | ternary "" (printf "/etc/venvd/ca/%s" .Values.ca.key))
  "OCI_RUNTIME" .Values.backends.runtimeClassName
  "KUBERNETES_NAMESPACE" .Release.Namespace
  "KUBERNETES_USER_NAMESPACES" (.Values.backends.userNamespaces | toJson)
  "TLS_CERT" (empty .Values.tls.existingSecret | ternary "" "/etc/venvd/tls/tls.crt")
  "TLS_KEY" (empty .Values.tls.existingSecret | ternary "" "/etc/venvd/tls/tls.key")
  "HOST_DIRS" (include "venvd.hostDirs" .)
  "KUBERNETES_ASSEMBLIES" (empty .Values.backends.assemblies | ternary "" (include "venvd.assemblies" .))
  "CLIENT_CERT" (empty .Values.backends.clientTlsSecret | ternary "" "/etc/venvd/client-tls/tls.crt")
  "CLIENT_KEY" (empty .Values.backends.clientTlsSecret | ternary "" "/etc/venvd/client-tls/tls.key")
  "KUBERNETES_OWNER" (include "venvd.identity" .)
  "KUBERNETES_APT_NAMESPACE" .Values.apt.namespace
  "KUBERNETES_APT_OWNER" (empty .Values.apt.namespace | ternary "" (printf "%s-builds" (include "venvd.fullname" .)))
  "KUBERNETES_EGRESS_SERVICE" (.Values.egress.enabled | ternary (include "venvd.egress" .) "")
  "KUBERNETES_EGRESS_KEY_FILE" (.Values.egress.enabled | ternary "/etc/venvd/egress/key" "")
  "KUBERNETES_REGISTRY" .Values.registry.prefix
  "KUBERNETES_REGISTRY_URL" .Values.registry.url
  "KUBERNETES_IMAGES" (omit .Values.images "pullSecrets" | toJson)
  "KUBERNETES_PULL_SECRET" .Values.registry.pullSecret
  "KUBERNETES_PUSH_SECRET" .Values.registry.pushSecret
  "KUBERNETES_NODE_SELECTOR" (.Values.backends.nodeSelector | toJson)
  "KUBERNETES_TOLERATIONS" (.Values.backends.tolerations | toJson)
  "KUBERNETES_PRIORITY_CLASS" .Values.backends.priorityClassName
) -}}
{{- range $name, $value := $set }}
{{- if ne (toString $value) "" }}
{{ include "venvd.variable" (dict "name" (printf "VENVD_%s" $name) "value" $value) }}
{{- end }}
{{- end }}
{{- if include "venvd.hasLease" . }}
- name: VENVD_KUBERNETES_LEASE_POD
  valueFrom:
    fieldRef: {fieldPath: metadata.name}
{{- end }}
{{- with .Values.index }}
{{- if .existingSecret }}
- name: VENVD_INDEX_URL
  valueFrom:
    secretKeyRef: {name: {{ .existingSecret }}, key: {{ .key }}}
{{- end }}
{{- end }}
{{- with .Values.database }}
{{- if .existingSecret }}
- name: VENVD_DATABASE_URL
  valueFrom:
    secretKeyRef: {name: {{ .existingSecret }}, key: {{ .key }}}
{{- end }}
{{- end }}
{{- end }}

{{/* The directories that specifications may name. The controller has the first one; the second one stands for volumes of backends. */}}
{{- define "venvd.hostDirs" -}}
{{- $directories := list -}}
{{- if .Values.backends.tlsSecrets }}{{ $directories = append $directories "/etc/venvd/backend-tls" }}{{ end -}}
{{- if .Values.backends.assemblies }}{{ $directories = append $directories "/etc/venvd/assemblies" }}{{ end -}}
{{- join ":" $directories -}}
{{- end }}

{{/* The volumes with assemblies by the directories that name them. */}}
{{- define "venvd.assemblies" -}}
{{- $volumes := dict -}}
{{- range .Values.backends.assemblies -}}
{{- $claim := dict "persistentVolumeClaim" (dict "claimName" .claim "readOnly" true) -}}
{{- $volume := empty .claim | ternary (dict "configMap" (dict "name" .configMap)) $claim -}}
{{- $_ := set $volumes (printf "/etc/venvd/assemblies/%s" .name) $volume -}}
{{- end -}}
{{- toJson $volumes -}}
{{- end }}
