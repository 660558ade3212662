// The custom roles of the service in one subscription. The JSON files say what they allow; docs/security.md says why.
targetScope = 'subscription'

param environmentName string

var subscriptionId = subscription().id
var sourceRole = loadJsonContent('../roles/source.json')
var sourceWithStatusTagsRole = loadJsonContent('../roles/source-with-status-tags.json')
var targetRole = loadJsonContent('../roles/target.json')
var targetSubscriptionRole = loadJsonContent('../roles/target-subscription.json')
var roles = [
  sourceRole
  sourceWithStatusTagsRole
  targetRole
  targetSubscriptionRole
]

// Names of custom roles are unique in a tenant.
resource definitions 'Microsoft.Authorization/roleDefinitions@2022-04-01' = [
  for role in roles: {
    name: guid(subscriptionId, environmentName, role.Name)
    properties: {
      roleName: '${role.Name} (${environmentName}, ${subscription().subscriptionId})'
      description: role.Description
      type: 'CustomRole'
      permissions: [
        {
          actions: role.Actions
          notActions: role.NotActions
          dataActions: role.DataActions
          notDataActions: role.NotDataActions
        }
      ]
      assignableScopes: [
        subscriptionId
      ]
    }
  }
]

output source string = definitions[0].id
output sourceWithStatusTags string = definitions[1].id
output target string = definitions[2].id
output targetSubscription string = definitions[3].id
