// The promotion service in Azure: its own resource group, and its rights in the workspaces that the policy names.
// Which these are is read from the policy itself, so that no workspace is listed twice.
targetScope = 'subscription'

@minLength(1)
@maxLength(32)
@description('Name of the azd environment; part of all names.')
param environmentName string

@description('Region of the service. The workspaces may be in others.')
param location string

@description('Whether events are subscribed to. False until the function app has its code: Event Grid looks for the function.')
param subscribe bool = false

@description('When tags and lost messages are looked for: NCRONTAB of six fields.')
param reconcileSchedule string = '0 */5 * * * *'

@description('Minutes after which a promotion that is not live is told to be overdue.')
@minValue(1)
param overdueMinutes int = 60

@description('Client id of the app registration for sign-in; empty to have function keys only, with which nobody can approve.')
param signInClientId string = ''

@description('System topics that are there already, by the source\'s name in the policy: { dev: { workspace: NAME, resourceGroup: NAME } }. Azure allows one topic for each workspace and one for each resource group.')
param existingTopics object = {}

@description('Addresses that are mailed when an alert fires. Without any, alerts are only listed in the portal.')
param alertAddresses array = []

// any: sources and targets need not all have the same keys.
var policy = any(loadYamlContent('../promotion.yaml'))
var sources = items(policy.sources)
var targets = items(policy.targets)
var token = toLower(uniqueString(subscription().id, environmentName, location))
var tags = { 'azd-env-name': environmentName }
var subscriptionIds = union(
  map(sources, source => toLower(source.value.subscription_id)),
  map(targets, target => toLower(target.value.subscription_id))
)
var targetSubscriptionIds = union(map(targets, target => toLower(target.value.subscription_id)), [])

resource group 'Microsoft.Resources/resourceGroups@2024-11-01' = {
  name: 'rg-promotion-${environmentName}'
  location: location
  tags: tags
}

module identity 'modules/identity.bicep' = {
  scope: group
  params: {
    name: 'id-promotion-${token}'
    location: location
    tags: tags
  }
}

module monitoring 'modules/monitoring.bicep' = {
  scope: group
  params: {
    token: token
    location: location
    tags: tags
    principalId: identity.outputs.principalId
  }
}

module storage 'modules/storage.bicep' = {
  scope: group
  params: {
    name: 'stpromo${token}'
    location: location
    tags: tags
    principalId: identity.outputs.principalId
  }
}

module queue 'modules/queue.bicep' = {
  scope: group
  params: {
    namespaceName: 'sb-promotion-${token}'
    location: location
    tags: tags
    principalId: identity.outputs.principalId
  }
}

module notifications 'modules/notifications.bicep' = {
  scope: group
  params: {
    name: 'evgt-promotion-${token}'
    location: location
    tags: tags
    principalId: identity.outputs.principalId
  }
}

module alerts 'modules/alerts.bicep' = {
  scope: group
  params: {
    token: token
    location: location
    tags: tags
    logsId: monitoring.outputs.workspaceId
    namespaceId: queue.outputs.namespaceId
    queueName: queue.outputs.queueName
    addresses: alertAddresses
  }
}

module app 'modules/app.bicep' = {
  scope: group
  params: {
    name: 'func-promotion-${token}'
    planName: 'plan-promotion-${token}'
    location: location
    tags: tags
    identityId: identity.outputs.id
    clientId: identity.outputs.clientId
    storageAccountName: storage.outputs.name
    packageContainer: storage.outputs.packageContainer
    blobEndpoint: storage.outputs.blobEndpoint
    tableEndpoint: storage.outputs.tableEndpoint
    serviceBusHost: queue.outputs.host
    queueName: queue.outputs.queueName
    notificationsEndpoint: notifications.outputs.endpoint
    applicationInsights: monitoring.outputs.address
    reconcileSchedule: reconcileSchedule
    overdueMinutes: overdueMinutes
    signInClientId: signInClientId
  }
}

// A custom role is defined once for each subscription in which it is assigned.
module roles 'modules/roles.bicep' = [
  for subscriptionId in subscriptionIds: {
    scope: subscription(subscriptionId)
    params: {
      environmentName: environmentName
    }
  }
]

module sourceRights 'modules/workspace-rights.bicep' = [
  for source in sources: {
    scope: resourceGroup(source.value.subscription_id, source.value.resource_group)
    params: {
      workspaceName: source.value.workspace
      roleDefinitionId: (source.value.?status_tags ?? false) || (source.value.?register_models ?? false)
        ? roles[indexOf(subscriptionIds, toLower(source.value.subscription_id))].outputs.sourceWithStatusTags
        : roles[indexOf(subscriptionIds, toLower(source.value.subscription_id))].outputs.source
      principalId: identity.outputs.principalId
    }
  }
]

module targetRights 'modules/workspace-rights.bicep' = [
  for target in targets: {
    scope: resourceGroup(target.value.subscription_id, target.value.resource_group)
    params: {
      workspaceName: target.value.workspace
      roleDefinitionId: roles[indexOf(subscriptionIds, toLower(target.value.subscription_id))].outputs.target
      principalId: identity.outputs.principalId
    }
  }
]

module targetSubscriptionRights 'modules/subscription-rights.bicep' = [
  for subscriptionId in targetSubscriptionIds: {
    scope: subscription(subscriptionId)
    params: {
      roleDefinitionId: roles[indexOf(subscriptionIds, subscriptionId)].outputs.targetSubscription
      principalId: identity.outputs.principalId
    }
  }
]

module topics 'modules/topics.bicep' = [
  for source in sources: {
    scope: resourceGroup(source.value.subscription_id, source.value.resource_group)
    params: {
      workspaceName: source.value.workspace
      workspaceTopicName: existingTopics[?source.key].?workspace ?? 'evgst-promotion-${source.value.workspace}'
      resourceGroupTopicName: existingTopics[?source.key].?resourceGroup ?? 'evgst-promotion-${source.value.resource_group}'
      tags: tags
    }
  }
]

module eventAlerts 'modules/event-alerts.bicep' = [
  for (source, index) in sources: {
    scope: resourceGroup(source.value.subscription_id, source.value.resource_group)
    params: {
      topicName: topics[index].outputs.workspaceTopicName
      actionGroupId: alerts.outputs.actionGroupId
      tags: tags
    }
  }
]

module deadLetterRights 'modules/dead-letter-rights.bicep' = [
  for (source, index) in sources: {
    scope: group
    params: {
      storageAccountName: storage.outputs.name
      containerName: storage.outputs.deadLetterContainer
      principalIds: topics[index].outputs.principalIds
    }
  }
]

module subscriptions 'modules/event-subscriptions.bicep' = [
  for (source, index) in sources: if (subscribe) {
    scope: resourceGroup(source.value.subscription_id, source.value.resource_group)
    params: {
      name: 'promotion-${environmentName}-${source.key}'
      workspaceName: source.value.workspace
      workspaceTopicName: topics[index].outputs.workspaceTopicName
      resourceGroupTopicName: topics[index].outputs.resourceGroupTopicName
      functionId: '${app.outputs.id}/functions/intake'
      deadLetterAccountId: storage.outputs.id
      deadLetterContainer: storage.outputs.deadLetterContainer
    }
    dependsOn: [deadLetterRights]
  }
]

output AZURE_RESOURCE_GROUP string = group.name
output PROMOTION_APP_NAME string = app.outputs.name
output PROMOTION_APP_URL string = app.outputs.url
output PROMOTION_IDENTITY_CLIENT_ID string = identity.outputs.clientId
output PROMOTION_IDENTITY_PRINCIPAL_ID string = identity.outputs.principalId
output PROMOTION_NOTIFICATIONS_TOPIC string = notifications.outputs.name
output PROMOTION_SERVICE_BUS string = queue.outputs.host
output PROMOTION_STORAGE_ACCOUNT string = storage.outputs.name
