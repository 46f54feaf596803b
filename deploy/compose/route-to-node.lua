-- Send each chest radiograph to the node. Only images: a report that is routed back to the node that made it is a loop.
local IMAGES = { CR = true, DX = true }

function OnStoredInstance(instanceId, tags, metadata, origin)
   local chest = tags['BodyPartExamined'] == 'CHEST' or tags['BodyPartExamined'] == 'THORAX'
   if IMAGES[tags['Modality']] and (chest or tags['BodyPartExamined'] == nil) then
      SendToModality(instanceId, 'LUMEN')
   end
end
