// What of a source reaches the function `intake`. Both subscriptions keep what could not be delivered, in the service's
// storage, written by the topics' own identities.
param name string
param workspaceName string
param workspaceTopicName string
param resourceGroupTopicName string
param functionId string
param deadLetterAccountId string
param deadLetterContainer string

var destination = {
  endpointType: 'AzureFunction'
  properties: {
    resourceId: functionId
    // One at a time: the host answers for a batch as a whole, and a batch comes again as a whole.
    maxEventsPerBatch: 1
    preferredBatchSizeInKilobytes: 64
  }
}
// Event Grid's own most: 30 attempts in one day. The timer finds what came too late for that.
var retryPolicy = {
  maxDeliveryAttempts: 30
  eventTimeToLiveInMinutes: 1440
}
var deadLetters = {
  identity: {
    type: 'SystemAssigned'
  }
  deadLetterDestination: {
    endpointType: 'StorageBlob'
    properties: {
      resourceId: deadLetterAccountId
      blobContainerName: deadLetterContainer
    }
  }
}

resource workspaceTopic 'Microsoft.EventGrid/systemTopics@2025-02-15' existing = {
  name: workspaceTopicName
}

resource resourceGroupTopic 'Microsoft.EventGrid/systemTopics@2025-02-15' existing = {
  name: resourceGroupTopicName
}

resource events 'Microsoft.EventGrid/systemTopics/eventSubscriptions@2025-02-15' = {
  parent: workspaceTopic
  name: name
  properties: {
    destination: destination
    eventDeliverySchema: 'CloudEventSchemaV1_0'
    filter: {
      includedEventTypes: [
        'Microsoft.MachineLearningServices.ModelRegistered'
        'Microsoft.MachineLearningServices.RunCompleted'
        'Microsoft.MachineLearningServices.RunStatusChanged'
      ]
    }
    retryPolicy: retryPolicy
    deadLetterWithResourceIdentity: deadLetters
  }
}

// A hint only, so that tags are heard at once; what is no model version of this workspace never leaves Event Grid.
resource writes 'Microsoft.EventGrid/systemTopics/eventSubscriptions@2025-02-15' = {
  parent: resourceGroupTopic
  name: '${name}-writes'
  properties: {
    destination: destination
    eventDeliverySchema: 'CloudEventSchemaV1_0'
    filter: {
      includedEventTypes: [
        'Microsoft.Resources.ResourceWriteSuccess'
      ]
      subjectBeginsWith: '${resourceGroup().id}/providers/Microsoft.MachineLearningServices/workspaces/${workspaceName}/models/'
    }
    retryPolicy: retryPolicy
    deadLetterWithResourceIdentity: deadLetters
  }
}
