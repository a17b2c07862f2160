{{/*
What the operator may do where FineTuneJobs live. The same list is operator/finetune_operator/permissions.py, and a test
compares both. No Secrets: pods take them by reference. No update of pods or Jobs: a Job is created, labelled or removed.
*/}}
{{- define "finetune-operator.rules" -}}
- apiGroups: [finetune-operator.io]
  resources: [finetunejobs]
  verbs: [get, list, watch]
- apiGroups: [finetune-operator.io]
  resources: [finetunejobs/status]
  verbs: [update, patch]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [create, get, list, watch, delete, patch]
- apiGroups: [""]
  resources: [configmaps]
  verbs: [create, get, list, delete]
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [create, get, list, watch, patch, delete]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch]
- apiGroups: [""]
  resources: [services]
  verbs: [create, get, delete]
- apiGroups: [""]
  resources: [events]
  verbs: [create, patch, list]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end -}}

{{/* Which replica works; in the release namespace only. */}}
{{- define "finetune-operator.leaseRules" -}}
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [get, create, update]
{{- end -}}
