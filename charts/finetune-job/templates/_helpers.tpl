{{/* From values to one FineTuneJob: the two layouts become one spec, and what cannot be honoured is refused with its reason. */}}

{{/* The object's name: children are named after it, so it is short (constants.MAX_NAME_LENGTH) and a DNS-1035 label. */}}
{{- define "finetune-job.name" -}}
{{- $name := .Values.fullnameOverride | default .Release.Name -}}
{{- if gt (len $name) 40 -}}
{{- fail (printf "the FineTuneJob's name %q has %d characters, at most 40 are possible: use a shorter release name or set fullnameOverride" $name (len $name)) -}}
{{- else if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" $name) -}}
{{- fail (printf "the FineTuneJob's name %q must start with a letter and have only a-z, 0-9 and '-': use another release name or set fullnameOverride" $name) -}}
{{- end -}}
{{- $name -}}
{{- end -}}

{{/* Remove keys without a value, at every depth, in place: to this chart null means "left out". */}}
{{- define "finetune-job.dropNulls" -}}
{{- $value := . -}}
{{- if kindIs "map" $value -}}
{{- range $key, $inner := $value -}}
{{- if kindIs "invalid" $inner -}}
{{- $_ := unset $value $key -}}
{{- else -}}
{{- include "finetune-job.dropNulls" $inner -}}
{{- end -}}
{{- end -}}
{{- else if kindIs "slice" $value -}}
{{- range $value -}}{{- include "finetune-job.dropNulls" . -}}{{- end -}}
{{- end -}}
{{- end -}}

{{/*
Add one map's keys to another, in place; call with (dict "into" … "from" … "path" "" "fromName" "finetuning_config").
A key that both have must have the same value: neither layout outranks the other.
*/}}
{{- define "finetune-job.merge" -}}
{{- $call := . -}}
{{- range $key, $value := $call.from -}}
{{- $path := trimPrefix "." (printf "%s.%s" $call.path $key) -}}
{{- if not (hasKey $call.into $key) -}}
{{- $_ := set $call.into $key $value -}}
{{- else if and (kindIs "map" $value) (kindIs "map" (get $call.into $key)) -}}
{{- include "finetune-job.merge" (dict "into" (get $call.into $key) "from" $value "path" $path "fromName" $call.fromName) -}}
{{- else -}}
{{- include "finetune-job.same" (list (get $call.into $key) $path $value (printf "%s.%s" $call.fromName $path)) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Fail unless two ways to say one thing agree; call with (list value name value name). */}}
{{- define "finetune-job.same" -}}
{{- if ne (toJson (index . 0)) (toJson (index . 2)) -}}
{{- fail (printf "%s is %s and %s is %s: they mean the same, so give one of them, or the same value to both" (index . 1) (toJson (index . 0)) (index . 3) (toJson (index . 2))) -}}
{{- end -}}
{{- end -}}

{{/* One value for a key that has a second name; call with (dict "spec" … "path" (list "a" "b") "value" … "name" "other"). */}}
{{- define "finetune-job.alias" -}}
{{- $call := . -}}
{{- $map := $call.spec -}}
{{- range initial $call.path -}}
{{- if not (hasKey $map .) -}}{{- $_ := set $map . dict -}}{{- end -}}
{{- $map = get $map . -}}
{{- end -}}
{{- $key := last $call.path -}}
{{- if hasKey $map $key -}}
{{- include "finetune-job.same" (list (get $map $key) (join "." $call.path) $call.value $call.name) -}}
{{- else -}}
{{- $_ := set $map $key $call.value -}}
{{- end -}}
{{- end -}}

{{/* The original chart's top-level shortcuts. */}}
{{- define "finetune-job.shortcuts" -}}
{{- $spec := .spec -}}
{{- $values := .values -}}
{{- with $values.trainingData -}}
{{- include "finetune-job.alias" (dict "spec" $spec "path" (list "data_conf" "training_data" "datasets") "value" (list (dict "path" .)) "name" "trainingData") -}}
{{- $data := $spec.data_conf.training_data -}}
{{- if not (hasKey $data "type") -}}{{- $_ := set $data "type" "CONCATENATION" -}}{{- end -}}
{{- end -}}
{{- if hasKey $values "batchSize" -}}
{{- include "finetune-job.alias" (dict "spec" $spec "path" (list "batchsize_conf" "total_train_batch_size") "value" $values.batchSize "name" "batchSize") -}}
{{- end -}}
{{- if hasKey $values "numberOfEpochs" -}}
{{- include "finetune-job.alias" (dict "spec" $spec "path" (list "num_train_epochs") "value" $values.numberOfEpochs "name" "numberOfEpochs") -}}
{{- end -}}
{{- end -}}

{{/* As in the original chart: no total batch size means one sample per process (GPU) and step. */}}
{{- define "finetune-job.defaultBatch" -}}
{{- if hasKey . "batchsize_conf" -}}
{{- if not (hasKey .batchsize_conf "total_train_batch_size") -}}
{{- $gpus := ternary .finetuningGpus 1 (hasKey . "finetuningGpus") | int -}}
{{- $processes := $gpus | default (.cpuProcesses | default 1 | int) -}}
{{- $_ := set .batchsize_conf "total_train_batch_size" (mul (.nodes | default 1 | int) $processes) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The original chart lists the secrets' plain names; a pod, and a FineTuneJob, has objects with a name. */}}
{{- define "finetune-job.pullSecrets" -}}
{{- if hasKey . "imagePullSecrets" -}}
{{- $secrets := list -}}
{{- range .imagePullSecrets -}}
{{- $secrets = append $secrets (ternary (dict "name" .) . (kindIs "string" .)) -}}
{{- end -}}
{{- $_ := set . "imagePullSecrets" $secrets -}}
{{- end -}}
{{- end -}}

{{/* The spec, as JSON. */}}
{{- define "finetune-job.spec" -}}
{{- $values := deepCopy .Values.AsMap -}}
{{- include "finetune-job.dropNulls" $values -}}
{{- if dig "kaiwo" "enabled" false $values -}}
{{- fail "kaiwo.enabled is true, but this chart makes a FineTuneJob, which Kaiwo does not manage: remove it, and set queueName to queue with Kueue" -}}
{{- end -}}
{{- $spec := omit $values "global" "fullnameOverride" "finetuning_config" "kaiwo" "model" "aimManifest" "metadata" "trainingData" "batchSize" "numberOfEpochs" -}}
{{- include "finetune-job.merge" (dict "into" $spec "from" ($values.finetuning_config | default dict) "path" "" "fromName" "finetuning_config") -}}
{{- include "finetune-job.shortcuts" (dict "spec" $spec "values" $values) -}}
{{- range list "num_train_epochs" "lr_multiplier" "lr_batch_size_scaling" -}}
{{- if and (hasKey $spec .) (hasKey ($spec.overrides | default dict) .) -}}
{{- include "finetune-job.same" (list (get $spec .) . (get $spec.overrides .) (printf "overrides.%s" .)) -}}
{{- end -}}
{{- end -}}
{{- include "finetune-job.defaultBatch" $spec -}}
{{- include "finetune-job.pullSecrets" $spec -}}
{{- toJson $spec -}}
{{- end -}}

{{/* What describes the model without steering the job, as annotations: catalogues and people read them. */}}
{{- define "finetune-job.annotations" -}}
{{- $values := deepCopy .Values.AsMap -}}
{{- include "finetune-job.dropNulls" $values -}}
{{- with $values.model }}
finetune-operator.io/model: {{ . | quote }}
{{- end }}
{{- with $values.aimManifest }}
finetune-operator.io/aim-manifest: {{ toJson . | quote }}
{{- end }}
{{- with $values.metadata }}
finetune-operator.io/model-metadata: {{ toJson . | quote }}
{{- end }}
{{- end -}}
