{{/* Names, labels, images and the security settings that every pod of this chart shares. */}}

{{- define "finetune-operator.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{/* "<release>-<name>", or the release's name alone where it says the chart's name already. */}}
{{- define "finetune-operator.fullname" -}}
{{- $name := include "finetune-operator.name" . -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "finetune-operator.serviceAccountName" -}}
{{- .Values.serviceAccount.name | default (ternary (include "finetune-operator.fullname" .) "default" .Values.serviceAccount.create) -}}
{{- end -}}

{{/* What selects the pods of one component; call with (list . "operator"). */}}
{{- define "finetune-operator.selectorLabels" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ include "finetune-operator.name" $root }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{- define "finetune-operator.labels" -}}
{{- $root := index . 0 -}}
{{ include "finetune-operator.selectorLabels" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
app.kubernetes.io/part-of: finetune-operator
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* registry/repository@digest, or :tag; call with (list . <values with repository, tag, digest>). */}}
{{- define "finetune-operator.imageOf" -}}
{{- $root := index . 0 -}}
{{- $image := index . 1 -}}
{{- with $root.Values.image.registry }}{{ trimSuffix "/" . }}/{{ end -}}
{{- $image.repository -}}
{{- if $image.digest }}@{{ $image.digest }}{{ else }}:{{ $image.tag | default $root.Chart.AppVersion }}{{ end -}}
{{- end -}}

{{- define "finetune-operator.image" -}}
{{- include "finetune-operator.imageOf" (list . .Values.image) -}}
{{- end -}}

{{- define "finetune-operator.trainerImage" -}}
{{- include "finetune-operator.imageOf" (list . .Values.trainerImage) -}}
{{- end -}}

{{- define "finetune-operator.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 1000
runAsGroup: 1000
fsGroup: 1000
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "finetune-operator.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* Where pods of this chart may run; call with the values that hold nodeSelector, tolerations and affinity. */}}
{{- define "finetune-operator.scheduling" -}}
{{- with .nodeSelector }}
nodeSelector: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity: {{ toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Who may read the progress and metrics of train pods, as JSON: the operator's pods, and whoever scrapes metrics. */}}
{{- define "finetune-operator.progressFrom" -}}
{{- $namespace := dict "matchLabels" (dict "kubernetes.io/metadata.name" .Release.Namespace) -}}
{{- $pods := dict "matchLabels" (include "finetune-operator.selectorLabels" (list . "operator") | fromYaml) -}}
{{- $operator := dict "namespaceSelector" $namespace "podSelector" $pods -}}
{{- concat (list $operator) (.Values.networkPolicy.metricsFrom | default list) | toJson -}}
{{- end -}}

{{- define "finetune-operator.aggregatedRoles" -}}
{{- if kindIs "bool" .Values.rbac.aggregatedRoles -}}
{{- ternary "true" "" .Values.rbac.aggregatedRoles -}}
{{- else if not .Values.watchNamespace -}}
true
{{- end -}}
{{- end -}}

{{/* The MLflow server that jobs are logged to: the one of this chart, one that exists, or none. */}}
{{- define "finetune-operator.mlflowUri" -}}
{{- if and .Values.mlflow.enabled .Values.mlflow.uri -}}
{{- fail "mlflow.enabled installs a server and mlflow.uri names another: set one of them" -}}
{{- else if .Values.mlflow.enabled -}}
{{- printf "http://%s.%s.svc:5000" .Values.mlflow.name .Release.Namespace -}}
{{- else -}}
{{- .Values.mlflow.uri -}}
{{- end -}}
{{- end -}}
