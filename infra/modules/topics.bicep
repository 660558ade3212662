// The system topics of a source: what happens in its workspace, and what is written in the resource group around it. Each
// has an identity of its own, which may write dead letters and nothing else.
param workspaceName string
param workspaceTopicName string
param resourceGroupTopicName string
param tags object

resource workspace 'Microsoft.MachineLearningServices/workspaces@2025-12-01' existing = {
  name: workspaceName
}

resource workspaceTopic 'Microsoft.EventGrid/systemTopics@2025-02-15' = {
  name: workspaceTopicName
  location: workspace.location
  tags: tags
  identity: {
    type: 'SystemAssigned'
  }
  properties: {
    source: workspace.id
    topicType: 'Microsoft.MachineLearningServices.Workspaces'
  }
}

resource resourceGroupTopic 'Microsoft.EventGrid/systemTopics@2025-02-15' = {
  name: resourceGroupTopicName
  location: 'global'
  tags: tags
  identity: {
    type: 'SystemAssigned'
  }
  properties: {
    source: resourceGroup().id
    topicType: 'Microsoft.Resources.ResourceGroups'
  }
}

output workspaceTopicName string = workspaceTopic.name
output resourceGroupTopicName string = resourceGroupTopic.name
output principalIds array = [
  workspaceTopic.identity.principalId
  resourceGroupTopic.identity.principalId
]
