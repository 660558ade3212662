// A workspace tells its storage account when it is asked; a deployment must know the resource group it goes to before it
// starts. Hence this step in between.
param storageAccountId string
param roleDefinitionId string
param principalId string

module rights 'storage-rights.bicep' = {
  scope: resourceGroup(split(storageAccountId, '/')[2], split(storageAccountId, '/')[4])
  params: {
    storageAccountName: last(split(storageAccountId, '/'))
    roleDefinitionId: roleDefinitionId
    principalId: principalId
  }
}
