{{- define "venvd.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- (contains $name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $name)) | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end }}

{{- define "venvd.selector" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: controller
{{- end }}

{{- define "venvd.egress" -}}
{{ include "venvd.fullname" . }}-egress
{{- end }}

{{- define "venvd.egressSelector" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: egress
{{- end }}

{{- define "venvd.sharedLabels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "venvd.labels" -}}
{{ include "venvd.sharedLabels" . }}
{{ include "venvd.selector" . }}
{{- end }}

{{- define "venvd.metadata" -}}
namespace: {{ .Release.Namespace }}
labels:
  {{- include "venvd.labels" . | nindent 2 }}
{{- end }}

{{- define "venvd.egressMetadata" -}}
namespace: {{ .Release.Namespace }}
labels:
  {{- include "venvd.sharedLabels" . | nindent 2 }}
  {{- include "venvd.egressSelector" . | nindent 2 }}
{{- end }}

{{- define "venvd.aptMetadata" -}}
namespace: {{ .Values.apt.namespace }}
labels:
  {{- include "venvd.labels" . | nindent 2 }}
{{- end }}

{{- define "venvd.identity" -}}
{{- .Values.identity.existingSecret | default (printf "%s-identity" (include "venvd.fullname" .)) -}}
{{- end }}

{{- define "venvd.serviceAccount" -}}
{{- .Values.serviceAccount.existing | default (include "venvd.fullname" .) -}}
{{- end }}

{{- define "venvd.claim" -}}
{{- .Values.persistence.existingClaim | default (include "venvd.fullname" .) -}}
{{- end }}

{{- define "venvd.scheme" -}}
{{ empty .Values.tls.existingSecret | ternary "http" "https" }}
{{- end }}

{{/* Clients trust the controller's certificate itself, and need no authority. */}}
{{- define "venvd.trust" -}}
ca: {secret: {name: {{ .Values.tls.existingSecret }}, key: tls.crt}}
serverName: {{ include "venvd.fullname" . }}.{{ .Release.Namespace }}.svc
{{- end }}

{{- define "venvd.url" -}}
{{ include "venvd.scheme" . }}://{{ include "venvd.fullname" . }}.{{ .Release.Namespace }}.svc:{{ .Values.service.port }}
{{- end }}

{{- define "venvd.image" -}}
{{- required (printf "images.%s is empty: `make push REGISTRY=…` pushes the images and writes values that name them; add --values .build/images.yaml" .name) (get .root.Values.images .name) -}}
{{- end }}

{{/* An environment variable; what is no text becomes JSON, in which large numbers have no exponent. */}}
{{- define "venvd.variable" -}}
- name: {{ .name }}
  value: {{ kindIs "string" .value | ternary .value (toJson .value) | quote }}
{{- end }}

{{- define "venvd.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10003
runAsGroup: 10000
fsGroup: 10000
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "venvd.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- define "venvd.hasOperator" -}}
{{- if and .Values.monitoring.enabled (.Capabilities.APIVersions.Has "monitoring.coreos.com/v1/ServiceMonitor") -}}true{{- end -}}
{{- end }}

{{/* Whether controllers find a leader by a Lease: where they share a database, also one alone, so that an upgrade never has two that run. */}}
{{- define "venvd.hasLease" -}}
{{- if and .Values.database.existingSecret (not .Values.controller.maintenance) -}}true{{- end -}}
{{- end }}

{{- define "venvd.replicas" -}}
{{- if and (gt (int .Values.controller.replicas) 1) (not .Values.database.existingSecret) -}}
{{- fail (printf "controller.replicas is %d and database.existingSecret is empty: more than one controller need a PostgreSQL database that they share" (int .Values.controller.replicas)) -}}
{{- end -}}
{{- .Values.controller.maintenance | ternary 1 (int .Values.controller.replicas) -}}
{{- end }}
