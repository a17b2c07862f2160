{{/* MLflow's image: its own, or the trainer's. */}}
{{- define "finetune-operator.mlflowImage" -}}
{{- if .Values.mlflow.image.repository -}}
{{- if not (or .Values.mlflow.image.tag .Values.mlflow.image.digest) -}}
{{- fail (printf "mlflow.image.repository is %q without a version: set mlflow.image.tag or mlflow.image.digest" .Values.mlflow.image.repository) -}}
{{- end -}}
{{- include "finetune-operator.imageOf" (list . .Values.mlflow.image) -}}
{{- else -}}
{{- if or .Values.mlflow.image.tag .Values.mlflow.image.digest -}}
{{- fail "mlflow.image.tag and digest belong to mlflow.image.repository: set it too, or leave all three empty for the trainer's image" -}}
{{- end -}}
{{- include "finetune-operator.trainerImage" . -}}
{{- end -}}
{{- end -}}

{{/*
Under which names the server answers, as JSON {"hosts": […], "origins": […]}. MLflow compares the Host header with its port,
and the Origin of what a page posts; the pod's own address is for browsers that reach pods, localhost for port-forward.
*/}}
{{- define "finetune-operator.mlflowNames" -}}
{{- $service := .Values.mlflow.name -}}
{{- $names := list "localhost" "127.0.0.1" "$(POD_IP)" $service -}}
{{- range list "" ".svc" ".svc.cluster.local" -}}
{{- $names = append $names (printf "%s.%s%s" $service $.Release.Namespace .) -}}
{{- end -}}
{{- $hosts := list "localhost:*" "127.0.0.1:*" -}}
{{- $origins := list -}}
{{- range $names -}}
{{- $hosts = concat $hosts (list . (printf "%s:5000" .)) -}}
{{- $origins = append $origins (printf "http://%s:5000" .) -}}
{{- end -}}
{{- range .Values.mlflow.allowedHosts -}}
{{- $hosts = append $hosts . -}}
{{- $origins = concat $origins (list (printf "http://%s" .) (printf "https://%s" .)) -}}
{{- end -}}
{{- with .Values.mlflow.publicUrl -}}
{{- $url := urlParse . -}}
{{- $hosts = append $hosts $url.host -}}
{{- $origins = append $origins (printf "%s://%s" $url.scheme $url.host) -}}
{{- end -}}
{{- dict "hosts" (uniq $hosts) "origins" (uniq $origins) | toJson -}}
{{- end -}}

{{/* The environment that names the backend store: the server and the schema upgrade read the same. */}}
{{- define "finetune-operator.mlflowBackendEnv" -}}
{{- $store := .Values.mlflow.backendStore -}}
- name: MLFLOW_BACKEND_STORE_URI
{{- if and $store.uri $store.secret.name -}}
{{- fail "mlflow.backendStore has both uri and secret.name: set one of them" -}}
{{- else if $store.secret.name }}
  valueFrom:
    secretKeyRef: {name: {{ $store.secret.name }}, key: {{ $store.secret.key }}}
{{- else }}
  value: {{ $store.uri | default "sqlite:////mlflow/mlflow.db" | quote }}
{{- end }}
{{- end -}}
