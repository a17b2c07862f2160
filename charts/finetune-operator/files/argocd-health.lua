-- Health of a FineTuneJob for Argo CD (argocd-cm, resource.customizations.health.finetune-operator.io_FineTuneJob).
-- A job that ended badly or cannot go on without help is Degraded; until it ends it is Progressing, with its progress.
local status = obj.status or {}

if status.observedGeneration ~= nil and status.observedGeneration < (obj.metadata.generation or 0) then
  return { status = "Progressing", message = "waiting for the operator to see the newest change" }
end

local condition = {}
for _, entry in ipairs(status.conditions or {}) do
  if entry.status == "True" then
    condition[entry.type] = entry.message or ""
  end
end

if condition.Failed then
  return { status = "Degraded", message = condition.Failed }
elseif condition.Complete then
  return { status = "Healthy", message = condition.Complete }
elseif condition.Suspended then
  return { status = "Suspended", message = condition.Suspended }
elseif condition.Stalled then
  return { status = "Degraded", message = condition.Stalled }
end

local message = status.phase or "waiting for the operator"
if status.steps then
  message = message .. ", step " .. status.steps
end
if status.eta then
  message = message .. ", " .. status.eta .. " left"
end
return { status = "Progressing", message = message }
