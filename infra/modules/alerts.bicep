// What somebody should hear of, each with its page in docs/runbook.md. Dead letters are counted by Service Bus itself; the rest are
// queries over the records that the service writes (core/monitoring.py).
param token string
param location string
param tags object
param logsId string
param namespaceId string
param queueName string

@description('Addresses that get mails. Without any, alerts are only listed in the portal.')
param addresses array

var runbook = 'See docs/runbook.md#'
var queries = [
  {
    name: 'promotion-refused'
    title: 'A promotion was refused'
    severity: 2
    query: loadTextContent('../queries/promotion-refused.kql')
    window: 'PT15M'
    range: null
    operator: 'GreaterThan'
    threshold: 0
  }
  {
    name: 'promotion-parked'
    title: 'A promotion has been parked for hours'
    severity: 3
    query: loadTextContent('../queries/promotion-parked.kql')
    window: 'PT15M'
    range: 'P2D'
    operator: 'GreaterThan'
    threshold: 0
  }
  {
    name: 'queue-age'
    title: 'Messages of promotions are not delivered'
    severity: 1
    query: loadTextContent('../queries/queue-age.kql')
    window: 'PT15M'
    range: null
    operator: 'GreaterThan'
    threshold: 0
  }
  {
    name: 'timer-silent'
    title: 'The timer has not run for 30 minutes'
    severity: 1
    query: loadTextContent('../queries/timer-silent.kql')
    window: 'PT30M'
    range: null
    operator: 'LessThan'
    threshold: 1
  }
]

resource group 'Microsoft.Insights/actionGroups@2023-01-01' = {
  name: 'ag-promotion-${token}'
  location: 'global'
  tags: tags
  properties: {
    groupShortName: 'promotion'
    enabled: true
    emailReceivers: [
      for (address, index) in addresses: {
        name: 'mail-${index}'
        emailAddress: address
        useCommonAlertSchema: true
      }
    ]
  }
}

resource deadLetters 'Microsoft.Insights/metricAlerts@2018-03-01' = {
  name: 'dead-letters'
  location: 'global'
  tags: tags
  properties: {
    description: 'The dead-letter queue is not empty. ${runbook}dead-letters'
    severity: 1
    enabled: true
    scopes: [
      namespaceId
    ]
    evaluationFrequency: 'PT5M'
    windowSize: 'PT5M'
    criteria: {
      'odata.type': 'Microsoft.Azure.Monitor.SingleResourceMultipleMetricCriteria'
      allOf: [
        {
          criterionType: 'StaticThresholdCriterion'
          name: 'dead letters'
          metricNamespace: 'Microsoft.ServiceBus/namespaces'
          metricName: 'DeadletteredMessages'
          dimensions: [
            {
              name: 'EntityName'
              operator: 'Include'
              values: [
                queueName
              ]
            }
          ]
          timeAggregation: 'Maximum'
          operator: 'GreaterThan'
          threshold: 0
        }
      ]
    }
    autoMitigate: true
    actions: [
      {
        actionGroupId: group.id
      }
    ]
  }
}

// Not validated when it is created: the table is there with the first record only.
resource rules 'Microsoft.Insights/scheduledQueryRules@2023-12-01' = [
  for each in queries: {
    name: each.name
    location: location
    tags: tags
    kind: 'LogAlert'
    properties: {
      displayName: each.title
      description: '${each.title}. ${runbook}${each.name}'
      severity: each.severity
      enabled: true
      scopes: [
        logsId
      ]
      evaluationFrequency: 'PT5M'
      windowSize: each.window
      overrideQueryTimeRange: each.range
      criteria: {
        allOf: [
          {
            query: each.query
            timeAggregation: 'Count'
            operator: each.operator
            threshold: each.threshold
            failingPeriods: {
              numberOfEvaluationPeriods: 1
              minFailingPeriodsToAlert: 1
            }
          }
        ]
      }
      autoMitigate: true
      skipQueryValidation: true
      actions: {
        actionGroups: [
          group.id
        ]
      }
    }
  }
]

output actionGroupId string = group.id
