import {
  ASSOCIATE_TYPES,
  MOBILITY_STATUSES,
  SERVICE_LEVELS,
  SUBSCRIPTION_TYPES,
  TRANSFER_STATES,
} from './amsi-body.ts'

export type Schema = Record<string, unknown>

export const ref = (name: string): Schema => ({ $ref: `#/components/schemas/${name}` })
export const list = (items: Schema, limits: { minItems?: number; maxItems?: number } = {}): Schema => ({
  type: 'array',
  items,
  ...limits,
})
const object = (properties: Record<string, Schema>, required: string[] = [], more: Schema = {}): Schema => ({
  type: 'object',
  properties,
  ...(required.length > 0 ? { required } : {}),
  ...more,
})
const text = (maxLength?: number): Schema => ({ type: 'string', ...(maxLength ? { maxLength } : {}) })
const whole: Schema = { type: 'integer' }
const flag: Schema = { type: 'boolean' }
const uri: Schema = { type: 'string', format: 'uri' }
const choice = (values: readonly string[]): Schema => ({ type: 'string', enum: [...values] })
const strict: Schema = { additionalProperties: false }

const pod = {
  name: { ...text(32), pattern: '^[a-z0-9]([a-z0-9-]*[a-z0-9])?$' },
  image: text(512),
  ui: flag,
  args: { ...list(text(4096), { maxItems: 128 }), description: "without any the image's own command runs" },
  env: { type: 'object', additionalProperties: text(4096) },
  cpu: { ...text(32), description: 'cores: "250m" or "1"' },
  memory: { ...text(32), description: '"64Mi", "100M", "1Gi" or bytes' },
  storage: { ...text(32), description: 'a pod that writes more than this to its own layer is stopped' },
  ports: list({ type: 'integer', minimum: 1, maximum: 65535 }, { maxItems: 16 }),
}
const app = {
  name: text(32),
  requiredDelayMs: { type: 'number', exclusiveMinimum: 0, maximum: 60000 },
  executionTimeS: { type: 'integer', minimum: 1 },
  priority: { type: 'integer', minimum: 0, maximum: 1000 },
}
const appInfo = {
  appName: text(32),
  appProvider: text(32),
  appDVersion: text(),
  appSoftVersion: text(32),
  appDescription: text(128),
  appPackageSource: uri,
}
const instance = { appInstanceId: text(), referenceURI: uri, appLocation: ref('LocationConstraints') }
const subscription = {
  callbackReference: uri,
  requestTestNotification: flag,
  expiryDeadline: ref('TimeStamp'),
  _links: object({ self: ref('LinkType') }, ['self']),
}
const notificationLinks = object({ subscription: ref('LinkType') }, ['subscription'])
const notification = (name: string, properties: Record<string, Schema>, required: string[]): Schema =>
  object({ notificationType: { const: name }, ...properties }, ['notificationType', ...required])

export const SCHEMAS: Record<string, Schema> = {
  ProblemDetails: object(
    {
      type: uri,
      title: text(),
      status: whole,
      detail: text(),
      instance: uri,
      code: text(),
      errors: list(object({ field: text(), detail: text() }, ['field', 'detail'])),
    },
    ['type', 'title', 'status', 'detail', 'code'],
  ),
  AppRequest: object(
    {
      ...app,
      pods: list(object(pod, ['name', 'image', 'cpu', 'memory'], strict), { minItems: 1, maxItems: 16 }),
    },
    ['name', 'pods'],
    strict,
  ),
  App: object(
    {
      id: text(),
      ...app,
      state: choice(['registered', 'copying', 'starting', 'running', 'failed', 'deleting']),
      pods: list(
        object(
          {
            ...pod,
            state: choice(['pending', 'pulling', 'starting', 'running', 'failed']),
            node: text(),
            referenceURI: uri,
            startedMs: { type: 'number' },
            reason: text(),
          },
          ['name', 'image', 'state'],
        ),
      ),
      reasons: list(text()),
      createdAt: { type: 'number' },
      contextId: text(32),
    },
    ['id', 'name', 'state', 'priority', 'pods', 'reasons', 'createdAt'],
  ),
  Location: object(
    { node: text(), peer: text(), by: choice(['report', 'request']), at: { type: 'number' } },
    ['node', 'peer', 'by', 'at'],
  ),
  LocationConstraints: object({
    countryCode: text(2),
    civicAddressElement: list(object({ caType: whole, caValue: text() }, ['caType', 'caValue'])),
    area: object({
      type: { const: 'Polygon' },
      coordinates: list(list(list({ type: 'number' })), { minItems: 1 }),
    }),
  }),
  ApplicationList: object(
    {
      appList: list(
        object(
          {
            appInfo: object(
              {
                ...appInfo,
                appDId: text(),
                appLocation: list(ref('LocationConstraints')),
                appCharcs: object({
                  memory: whole,
                  storage: whole,
                  latency: whole,
                  bandwidth: whole,
                  serviceCont: { type: 'integer', enum: [0, 1] },
                }),
              },
              ['appDId', 'appName', 'appProvider', 'appSoftVersion', 'appDVersion', 'appDescription'],
            ),
            vendorSpecificExt: object({ vendorId: text(32) }, ['vendorId']),
          },
          ['appInfo'],
        ),
      ),
    },
    ['appList'],
  ),
  AppContext: object(
    {
      contextId: text(32),
      associateDevAppId: text(32),
      appInfo: object(
        { ...appInfo, appDId: text(), userAppInstanceInfo: list(object(instance), { minItems: 1 }) },
        ['appName', 'appProvider', 'appDVersion', 'userAppInstanceInfo'],
      ),
      callbackReference: uri,
      appLocationUpdates: flag,
      appAutoInstantiation: flag,
    },
    ['associateDevAppId', 'appInfo'],
  ),
  ApplicationLocationAvailability: object(
    {
      associateDevAppId: text(32),
      appInfo: object(
        { ...appInfo, availableLocations: list(object({ appLocation: ref('LocationConstraints') })) },
        ['appName', 'appProvider', 'appDVersion'],
      ),
    },
    ['associateDevAppId', 'appInfo'],
  ),
  ApplicationContextUpdateNotification: notification(
    'ApplicationContextUpdateNotification',
    {
      contextId: text(32),
      userAppInstanceInfo: list(object(instance, ['appInstanceId', 'referenceURI']), { minItems: 1 }),
    },
    ['contextId', 'userAppInstanceInfo'],
  ),
  ApplicationContextDeleteNotification: notification(
    'ApplicationContextDeleteNotification',
    { contextId: text(32) },
    ['contextId'],
  ),
  AddressChangeNotification: notification(
    'AddressChangeNotification',
    { contextId: text(32), appInstanceId: text(), referenceURI: uri },
    ['contextId', 'appInstanceId', 'referenceURI'],
  ),
  ApplicationLocationAvailabilityNotification: notification(
    'ApplicationLocationAvailabilityNotification',
    {
      contextId: text(32),
      availableLocations: list(object({ appLocation: ref('LocationConstraints') }, ['appLocation']), {
        minItems: 1,
      }),
    },
    ['availableLocations'],
  ),
  TimeStamp: object({ seconds: whole, nanoSeconds: whole }, ['seconds', 'nanoSeconds']),
  LinkType: object({ href: uri }, ['href']),
  AssociateId: object({ type: choice(ASSOCIATE_TYPES), value: text() }, ['type', 'value']),
  CommunicationInterface: object({
    ipAddresses: list(object({ host: text(), port: whole }, ['host', 'port'])),
  }),
  RegistrationInfo: object(
    {
      appMobilityServiceId: text(),
      serviceConsumerId: object({ appInstanceId: text(), mepId: text() }),
      deviceInformation: list(
        object(
          {
            associateId: ref('AssociateId'),
            appMobilityServiceLevel: choice(SERVICE_LEVELS),
            contextTransferState: choice(TRANSFER_STATES),
          },
          ['associateId'],
        ),
      ),
      expiryTime: { type: 'integer', minimum: 0 },
    },
    ['serviceConsumerId'],
  ),
  AdjacentAppInstanceInfo: object(
    {
      appInstanceId: text(),
      appDId: text(),
      appInstanceCommLink: list(ref('CommunicationInterface'), { minItems: 1 }),
      mecHostInformation: object({ hostName: text(), hostId: { type: 'object' } }, ['hostId']),
      registeredInstanceId: text(),
    },
    ['appInstanceId', 'appDId', 'appInstanceCommLink'],
  ),
  MobilityProcedureSubscription: object(
    {
      subscriptionType: { const: SUBSCRIPTION_TYPES[0] },
      ...subscription,
      filterCriteria: object({
        appInstanceId: text(),
        associateId: list(ref('AssociateId')),
        mobilityStatus: list(choice(MOBILITY_STATUSES)),
      }),
    },
    ['subscriptionType', 'callbackReference', 'filterCriteria'],
  ),
  AdjacentAppInfoSubscription: object(
    {
      subscriptionType: { const: SUBSCRIPTION_TYPES[1] },
      ...subscription,
      filterCriteria: object({ appInstanceId: text() }),
    },
    ['subscriptionType', 'callbackReference', 'filterCriteria'],
  ),
  SubscriptionLinkList: object(
    {
      _links: object(
        {
          self: ref('LinkType'),
          subscription: list(
            object({ href: uri, subscriptionType: choice(SUBSCRIPTION_TYPES) }, ['href', 'subscriptionType']),
          ),
        },
        ['self'],
      ),
    },
    ['_links'],
  ),
  MobilityProcedureNotification: notification(
    'MobilityProcedureNotification',
    {
      timeStamp: ref('TimeStamp'),
      associateId: list(ref('AssociateId'), { minItems: 1 }),
      mobilityStatus: choice(MOBILITY_STATUSES),
      targetAppInfo: object({ appInstanceId: text(), commInterface: ref('CommunicationInterface') }, [
        'appInstanceId',
      ]),
      _links: notificationLinks,
    },
    ['associateId', 'mobilityStatus', '_links'],
  ),
  AdjacentAppInfoNotification: notification(
    'AdjacentAppInfoNotification',
    {
      timeStamp: ref('TimeStamp'),
      associateId: list(ref('AssociateId')),
      adjacentAppInfo: list(
        object({ appInstanceId: text(), commInterface: list(ref('CommunicationInterface')) }, [
          'appInstanceId',
          'commInterface',
        ]),
      ),
      _links: notificationLinks,
    },
    ['_links'],
  ),
  ExpiryNotification: notification(
    'ExpiryNotification',
    { timeStamp: ref('TimeStamp'), expiryDeadline: ref('TimeStamp'), _links: notificationLinks },
    ['expiryDeadline', '_links'],
  ),
  TestNotification: notification('TestNotification', { _links: notificationLinks }, ['_links']),
}
