-- Health of Postroad's resources for Argo CD (all four kinds).
-- Degraded: somebody has to do something. Progressing: pods are on their way. Healthy: every ready pod serves it.
local hs = { status = "Progressing", message = "Waiting for the operator" }
if obj.metadata.deletionTimestamp ~= nil then
  hs.message = "Being deleted"
  return hs
end
local status = obj.status
if status == nil or status.conditions == nil then
  return hs
end
if obj.metadata.generation ~= nil and status.observedGeneration ~= obj.metadata.generation then
  hs.message = "Waiting for the operator to see this generation"
  return hs
end
local found = {}
for _, condition in ipairs(status.conditions) do
  found[condition.type] = condition
end
if found.Stalled ~= nil and found.Stalled.status == "True" then
  hs.status = "Degraded"
  hs.message = found.Stalled.message
elseif found.Programmed ~= nil and found.Programmed.status == "False" and found.Programmed.reason == "Refused" then
  -- It is valid, and pods cannot serve it.
  hs.status = "Degraded"
  hs.message = found.Programmed.message
elseif found.Ready ~= nil and found.Ready.status == "True" then
  hs.status = found.Ready.reason == "Disabled" and "Suspended" or "Healthy"
  hs.message = found.Ready.message
elseif found.Reconciling ~= nil then
  hs.message = found.Reconciling.message
end
return hs
