// System topics may write what they could not deliver into one container.
param storageAccountName string
param containerName string
param principalIds array

var blobContributor = subscriptionResourceId('Microsoft.Authorization/roleDefinitions', 'ba92f5b4-2d11-453d-a403-e96b0029c9fe')

resource account 'Microsoft.Storage/storageAccounts@2025-01-01' existing = {
  name: storageAccountName
}

resource blobs 'Microsoft.Storage/storageAccounts/blobServices@2025-01-01' existing = {
  parent: account
  name: 'default'
}

resource container 'Microsoft.Storage/storageAccounts/blobServices/containers@2025-01-01' existing = {
  parent: blobs
  name: containerName
}

// The two topics of one source.
resource rights 'Microsoft.Authorization/roleAssignments@2022-04-01' = [
  for index in range(0, 2): {
    name: guid(container.id, principalIds[index], blobContributor)
    scope: container
    properties: {
      roleDefinitionId: blobContributor
      principalId: principalIds[index]
      principalType: 'ServicePrincipal'
    }
  }
]
