// A role in a whole subscription, for what Azure ML and Azure Monitor do not keep below a workspace.
targetScope = 'subscription'

param roleDefinitionId string
param principalId string

resource rights 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(subscription().id, principalId, roleDefinitionId)
  properties: {
    roleDefinitionId: roleDefinitionId
    principalId: principalId
    principalType: 'ServicePrincipal'
  }
}
