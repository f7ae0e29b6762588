-- Health of an EdgeModel for Argo CD, by the rules of kstatus (docs/gitops.md).
local hs = { status = "Progressing", message = "the operator has not seen this version yet" }
if obj.metadata.deletionTimestamp ~= nil then
  hs.message = "being deleted"
  return hs
end
if obj.status == nil or obj.status.observedGeneration ~= obj.metadata.generation then
  return hs
end
local is = {}
for _, condition in ipairs(obj.status.conditions or {}) do
  is[condition.type] = condition
end
local function told(status, condition)
  return { status = status, message = condition.reason .. ": " .. condition.message }
end
if is.Reconciling ~= nil and is.Reconciling.status == "True" then
  if is.Reconciling.reason == "WaitingForApproval" then
    return told("Suspended", is.Reconciling)
  end
  return told("Progressing", is.Reconciling)
end
if is.Stalled ~= nil and is.Stalled.status == "True" then
  return told("Degraded", is.Stalled)
end
if is.Ready ~= nil then
  return told(is.Ready.status == "True" and "Healthy" or "Progressing", is.Ready)
end
return hs
