// The function app, on Flex Consumption with Python 3.13. No setting holds a key: all are names and addresses.
param name string
param planName string
param location string
param tags object
param identityId string
param clientId string
param storageAccountName string
param packageContainer string
param blobEndpoint string
param tableEndpoint string
param serviceBusHost string
param queueName string
param notificationsEndpoint string
param applicationInsights string
param reconcileSchedule string
param overdueMinutes int
param signInClientId string

@description('Sessions are few and wait in the queue, not here.')
@minValue(1)
@maxValue(1000)
param maximumInstanceCount int = 40

@allowed([2048, 4096])
param instanceMemoryMB int = 2048

var hasSignIn = !empty(signInClientId)

resource plan 'Microsoft.Web/serverfarms@2024-11-01' = {
  name: planName
  location: location
  tags: tags
  kind: 'functionapp'
  sku: {
    name: 'FC1'
    tier: 'FlexConsumption'
  }
  properties: {
    reserved: true
  }
}

resource app 'Microsoft.Web/sites@2024-11-01' = {
  name: name
  location: location
  tags: union(tags, { 'azd-service-name': 'promotion' })
  kind: 'functionapp,linux'
  identity: {
    type: 'UserAssigned'
    userAssignedIdentities: {
      '${identityId}': {}
    }
  }
  properties: {
    serverFarmId: plan.id
    httpsOnly: true
    siteConfig: {
      minTlsVersion: '1.2'
    }
    functionAppConfig: {
      deployment: {
        storage: {
          type: 'blobContainer'
          value: '${blobEndpoint}${packageContainer}'
          authentication: {
            type: 'UserAssignedIdentity'
            userAssignedIdentityResourceId: identityId
          }
        }
      }
      runtime: {
        name: 'python'
        version: '3.13'
      }
      scaleAndConcurrency: {
        maximumInstanceCount: maximumInstanceCount
        instanceMemoryMB: instanceMemoryMB
      }
    }
  }
}

resource settings 'Microsoft.Web/sites/config@2024-11-01' = {
  parent: app
  name: 'appsettings'
  properties: {
    AzureWebJobsStorage__accountName: storageAccountName
    AzureWebJobsStorage__credential: 'managedidentity'
    AzureWebJobsStorage__clientId: clientId
    // An address only: the component takes no telemetry without a token of the identity (modules/monitoring.bicep).
    APPLICATIONINSIGHTS_CONNECTION_STRING: applicationInsights
    APPLICATIONINSIGHTS_AUTHENTICATION_STRING: 'ClientId=${clientId};Authorization=AAD'
    // The worker sets up OpenTelemetry with these, before it loads the app (core/adapters/tracing.py). Every trace is kept: a
    // promotion has some dozens of spans. Spans of HTTP clients are off: their URLs may hold signatures.
    PYTHON_APPLICATIONINSIGHTS_ENABLE_TELEMETRY: 'true'
    OTEL_SERVICE_NAME: 'model-promotion'
    OTEL_TRACES_SAMPLER: 'always_on'
    OTEL_PYTHON_DISABLED_INSTRUMENTATIONS: 'azure_sdk,django,fastapi,flask,httpx,httpx2,psycopg2,requests,urllib,urllib3'
    PYTHON_THREADPOOL_THREAD_COUNT: '32'
    AZURE_CLIENT_ID: clientId
    ServiceBusConnection__fullyQualifiedNamespace: serviceBusHost
    ServiceBusConnection__credential: 'managedidentity'
    ServiceBusConnection__clientId: clientId
    LedgerStorage__tableServiceUri: tableEndpoint
    LedgerStorage__blobServiceUri: blobEndpoint
    PROMOTION_QUEUE: queueName
    PROMOTION_POLICY: 'promotion.yaml'
    PROMOTION_PLATFORM_AUTHENTICATION: hasSignIn ? 'true' : 'false'
    PROMOTION_RECONCILE_SCHEDULE: reconcileSchedule
    PROMOTION_NOTIFICATIONS_ENDPOINT: notificationsEndpoint
    PROMOTION_OVERDUE_MINUTES: string(overdueMinutes)
  }
}

// Callers with a token of the tenant are known by name, and may approve. Others still need a function key. No secret is
// needed: tokens are checked, nobody is redirected.
resource signIn 'Microsoft.Web/sites/config@2024-11-01' = if (hasSignIn) {
  parent: app
  name: 'authsettingsV2'
  properties: {
    platform: {
      enabled: true
    }
    globalValidation: {
      requireAuthentication: false
      unauthenticatedClientAction: 'AllowAnonymous'
    }
    identityProviders: {
      azureActiveDirectory: {
        enabled: true
        registration: {
          clientId: signInClientId
          openIdIssuer: '${environment().authentication.loginEndpoint}${tenant().tenantId}/v2.0'
        }
        validation: {
          allowedAudiences: [
            signInClientId
            'api://${signInClientId}'
          ]
        }
      }
    }
  }
}

resource publishing 'Microsoft.Web/sites/basicPublishingCredentialsPolicies@2024-11-01' = [
  for kind in ['ftp', 'scm']: {
    parent: app
    name: kind
    properties: {
      allow: false
    }
  }
]

output id string = app.id
output name string = app.name
output url string = 'https://${app.properties.defaultHostName}'
