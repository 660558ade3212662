// One role on a workspace and on the storage account behind its default datastores.
param workspaceName string
param roleDefinitionId string
param principalId string

resource workspace 'Microsoft.MachineLearningServices/workspaces@2025-12-01' existing = {
  name: workspaceName
}

resource onWorkspace 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(workspace.id, principalId, roleDefinitionId)
  scope: workspace
  properties: {
    roleDefinitionId: roleDefinitionId
    principalId: principalId
    principalType: 'ServicePrincipal'
  }
}

module onStorage 'storage-of-workspace.bicep' = {
  params: {
    storageAccountId: workspace.properties.storageAccount
    roleDefinitionId: roleDefinitionId
    principalId: principalId
  }
}
