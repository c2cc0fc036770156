import { list, ref, SCHEMAS, type Schema } from './schemas.ts'

const json = (schema: Schema): Schema => ({ content: { 'application/json': { schema } } })
const problem = (description: string): Schema => ({
  description,
  content: { 'application/problem+json': { schema: ref('ProblemDetails') } },
})
const body = (schema: Schema): Schema => ({ required: true, ...json(schema) })
const nothing: Schema = { description: 'done' }

/** What any request of a device may be answered with besides its own. */
const COMMON: Record<string, Schema> = {
  '400': problem('parameters or a body that are no such; `errors` names the members'),
  '401': problem('no token, or not a valid one'),
  '403': problem('not allowed, or nothing fits now'),
  '404': problem('there is no such thing, or it is another device’s'),
  '405': problem('not this method here'),
  '406': problem('answers are JSON'),
  '429': problem('too many requests of this device at a time'),
  '500': problem('the daemon failed'),
  '503': problem('the node that keeps what the device has is away, or the daemon stops'),
}
const WITH_BODY: Record<string, Schema> = {
  '413': problem('the body is larger than 256 KiB'),
  '415': problem('the body is not JSON'),
}

interface Operation {
  summary: string
  responses: Record<string, Schema>
  parameters?: Schema[]
  requestBody?: Schema
  callbacks?: Schema
  security?: Schema[]
}

const operation = (
  summary: string,
  answers: Record<string, Schema>,
  more: Partial<Operation> = {},
): Operation => ({
  summary,
  ...more,
  responses: { ...answers, ...COMMON, ...(more.requestBody ? WITH_BODY : {}) },
})
const answer = (description: string, schema: Schema, location = false): Schema => ({
  description,
  ...(location ? { headers: { Location: { schema: { type: 'string', format: 'uri' } } } } : {}),
  ...json(schema),
})

const path = (name: string): Schema => ({ name, in: 'path', required: true, schema: { type: 'string' } })
const query = (name: string, schema: Schema): Schema => ({ name, in: 'query', schema })
const texts = list({ type: 'string', maxLength: 32 })
const SELECTION = ['filter', 'all_fields', 'fields', 'exclude_fields', 'exclude_default'].map((name) =>
  query(name, { type: 'string' }),
)
/** Notifications that a callback may get. */
const callbacks = (names: string[], where: string): Schema => ({
  notification: {
    [where]: {
      post: {
        summary: 'A notification; any 2xx takes it',
        requestBody: body({ oneOf: names.map(ref) }),
        responses: { '204': nothing },
      },
    },
  },
})
const CONTEXT_CALLBACKS = callbacks(
  [
    'ApplicationContextUpdateNotification',
    'ApplicationContextDeleteNotification',
    'AddressChangeNotification',
    'ApplicationLocationAvailabilityNotification',
  ],
  '{$request.body#/callbackReference}',
)
const SUBSCRIPTION_CALLBACKS = callbacks(
  ['MobilityProcedureNotification', 'AdjacentAppInfoNotification', 'ExpiryNotification', 'TestNotification'],
  '{$request.body#/callbackReference}',
)
const ANY_SUBSCRIPTION: Schema = {
  oneOf: [ref('MobilityProcedureSubscription'), ref('AdjacentAppInfoSubscription')],
}

const id = { parameters: [path('id')] }
const service = { parameters: [path('appMobilityServiceId')] }
const subscription = { parameters: [path('subscriptionId')] }

const PATHS: Record<string, Record<string, Operation>> = {
  '/mec/v1/apps': {
    get: operation('Applications of the device', { '200': answer('all', list(ref('App'))) }),
    post: operation(
      'Register an application: its images come into the site in the background',
      { '201': answer('it is registered', ref('App'), true) },
      { requestBody: body(ref('AppRequest')) },
    ),
  },
  '/mec/v1/apps/{id}': {
    get: operation('One application', { '200': answer('as it is', ref('App')) }, id),
    delete: operation('Delete it: nothing of it is left when this is answered', { '204': nothing }, id),
  },
  '/mec/v1/apps/{id}/offload': {
    post: operation(
      'Have it run',
      { '202': answer('it is placed, and being started', ref('App'), true), ...WITH_BODY },
      id,
    ),
  },
  '/mec/v1/apps/{id}/events': {
    get: operation(
      'What becomes of it, as server-sent events: `app` carries an App, `deleted` ends the stream',
      {
        '200': {
          description: 'the stream',
          content: { 'text/event-stream': { schema: { type: 'string' } } },
        },
      },
      id,
    ),
  },
  '/mec/v1/location': {
    get: operation('The node that the device is at', { '200': answer('it', ref('Location')) }),
    put: operation(
      'The device says at which node it is: applications that may follow it do',
      { '200': answer('noted', ref('Location')) },
      {
        requestBody: body({
          type: 'object',
          required: ['node'],
          properties: { node: { type: 'string', description: 'name or peer ID' } },
        }),
      },
    ),
  },
  '/dev_app/v1/app_list': {
    get: operation(
      'Applications that the device may ask for',
      { '200': answer('those that pass all filters', ref('ApplicationList')) },
      {
        parameters: [
          ...['appName', 'appProvider', 'appSoftVersion', 'vendorId'].map((name) => query(name, texts)),
          query('serviceCont', { type: 'integer', enum: [0, 1] }),
        ],
      },
    ),
  },
  '/dev_app/v1/app_contexts': {
    post: operation(
      'Have an application run; without a callback it is answered when it does',
      {
        '201': answer('the context', ref('AppContext'), true),
        '504': problem('a package did not come in time'),
      },
      { requestBody: body(ref('AppContext')), callbacks: CONTEXT_CALLBACKS },
    ),
  },
  '/dev_app/v1/app_contexts/{contextId}': {
    put: operation(
      'Another callback, or other locations',
      { '204': nothing },
      { parameters: [path('contextId')], requestBody: body(ref('AppContext')) },
    ),
    delete: operation('End it', { '204': nothing }, { parameters: [path('contextId')] }),
  },
  '/dev_app/v1/obtain_app_loc_availability': {
    post: operation(
      'Where an application could run now',
      { '200': answer('the locations', ref('ApplicationLocationAvailability')) },
      { requestBody: body(ref('ApplicationLocationAvailability')) },
    ),
  },
  '/amsi/v1/app_mobility_services': {
    get: operation(
      'Registrations of the device',
      { '200': answer('those that pass', list(ref('RegistrationInfo'))) },
      { parameters: SELECTION },
    ),
    post: operation(
      'Register for the application mobility service',
      { '201': answer('the registration', ref('RegistrationInfo'), true) },
      { requestBody: body(ref('RegistrationInfo')) },
    ),
  },
  '/amsi/v1/app_mobility_services/{appMobilityServiceId}': {
    get: operation('One registration', { '200': answer('it', ref('RegistrationInfo')) }, service),
    put: operation(
      'Replace it',
      { '200': answer('as it is now', ref('RegistrationInfo')) },
      { ...service, requestBody: body(ref('RegistrationInfo')) },
    ),
    delete: operation('End it', { '204': nothing }, service),
  },
  '/amsi/v1/app_mobility_services/{appMobilityServiceId}/deregister_task': {
    post: operation('End it', { '204': nothing, ...WITH_BODY }, service),
  },
  '/amsi/v1/queries/adjacent_app_instances': {
    get: operation(
      'Instances of the device’s applications beside the registered ones',
      { '200': answer('those that pass', list(ref('AdjacentAppInstanceInfo'))) },
      { parameters: SELECTION },
    ),
  },
  '/amsi/v1/subscriptions': {
    get: operation(
      'Links to the subscriptions of the device',
      { '200': answer('the links', ref('SubscriptionLinkList')) },
      {
        parameters: [query('subscriptionType', { type: 'string', enum: ['mobility_proc', 'adj_app_info'] })],
      },
    ),
    post: operation(
      'Subscribe to notifications',
      {
        '201': answer('the subscription', ANY_SUBSCRIPTION, true),
        '422': problem('only callbacks are called'),
      },
      { requestBody: body(ANY_SUBSCRIPTION), callbacks: SUBSCRIPTION_CALLBACKS },
    ),
  },
  '/amsi/v1/subscriptions/{subscriptionId}': {
    get: operation('One subscription', { '200': answer('it', ANY_SUBSCRIPTION) }, subscription),
    put: operation(
      'Replace it',
      { '200': answer('as it is now', ANY_SUBSCRIPTION), '422': problem('only callbacks are called') },
      { ...subscription, requestBody: body(ANY_SUBSCRIPTION) },
    ),
    delete: operation('End it', { '204': nothing }, subscription),
  },
}

/** The MEC API's description, OpenAPI 3.1. */
export function openApiDocument(version: string): Record<string, unknown> {
  return {
    openapi: '3.1.0',
    info: {
      title: 'Shoal MEC API',
      version,
      description:
        'For devices: the interfaces of ETSI MEC 016 and MEC 021 v2.2.1, and three verbs for those that have curl only. A device sees its own.',
      license: { name: 'Apache-2.0', identifier: 'Apache-2.0' },
    },
    security: [{ token: [] }],
    paths: PATHS,
    components: { schemas: SCHEMAS, securitySchemes: { token: { type: 'http', scheme: 'bearer' } } },
  }
}
