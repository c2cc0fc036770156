import assert from 'node:assert/strict'
import { z } from 'zod'

/**
 * The forms that ETSI MEC 016 and MEC 021 v2.2.1 give to answers and notifications, written from the standards' tables: who sends what
 * differs is wrong, whatever Shoal's own description says. Strict where the standard lists all there is.
 */
const uri = z.url()
const short = z.string().min(1).max(32)
const description = z.string().max(128)

export const locationConstraints = z
  .strictObject({
    countryCode: z
      .string()
      .regex(/^[A-Z]{2}$/)
      .optional(),
    civicAddressElement: z.array(z.strictObject({ caType: z.int(), caValue: z.string() })).optional(),
    area: z
      .strictObject({
        type: z.literal('Polygon').optional(),
        coordinates: z.array(z.array(z.array(z.number()))).min(1),
      })
      .optional(),
  })
  .refine(({ area, countryCode }) => area !== undefined || countryCode !== undefined)
  .refine(({ area, civicAddressElement }) => area === undefined || civicAddressElement === undefined)

export const problemDetails = z.looseObject({
  type: uri,
  title: z.string().min(1),
  status: z.int().min(400).max(599),
  detail: z.string().min(1),
  instance: uri,
})

export const applicationList = z.strictObject({
  appList: z
    .array(
      z.strictObject({
        appInfo: z.strictObject({
          appDId: z.string(),
          appName: short,
          appProvider: short,
          appSoftVersion: short,
          appDVersion: z.string(),
          appDescription: description,
          appLocation: z.array(locationConstraints).optional(),
          appCharcs: z
            .strictObject({
              memory: z.uint32().optional(),
              storage: z.uint32().optional(),
              latency: z.uint32().optional(),
              bandwidth: z.uint32().optional(),
              serviceCont: z.literal([0, 1]).optional(),
            })
            .optional(),
        }),
        vendorSpecificExt: z.looseObject({ vendorId: short }).optional(),
      }),
    )
    .optional(),
})

const appInfo = {
  appName: short,
  appProvider: short,
  appDVersion: z.string(),
  appSoftVersion: short.optional(),
  appDescription: description.optional(),
  appPackageSource: uri.optional(),
}

export const appContext = z
  .strictObject({
    contextId: short,
    associateDevAppId: short,
    appInfo: z.strictObject({
      ...appInfo,
      appDId: z.string().optional(),
      userAppInstanceInfo: z
        .array(
          z.strictObject({
            appInstanceId: z.string().optional(),
            referenceURI: uri.optional(),
            appLocation: locationConstraints.optional(),
          }),
        )
        .min(1),
    }),
    callbackReference: uri.optional(),
    appLocationUpdates: z.boolean().optional(),
    appAutoInstantiation: z.boolean().optional(),
  })
  .refine((context) => !(context.appLocationUpdates && context.appAutoInstantiation))

export const applicationLocationAvailability = z.strictObject({
  associateDevAppId: short,
  appInfo: z.strictObject({
    ...appInfo,
    availableLocations: z.array(z.strictObject({ appLocation: locationConstraints.optional() })).optional(),
  }),
})

const timeStamp = z.strictObject({ seconds: z.int(), nanoSeconds: z.int() })
const link = z.strictObject({ href: uri })
const associateId = z.strictObject({
  type: z.enum(['UE_IPv4_ADDRESS', 'UE_IPV6_ADDRESS', 'NATED_IP_ADDRESS', 'GTP_TEID']),
  value: z.string(),
})
const mobilityStatus = z.enum([
  'INTERHOST_MOVEOUT_TRIGGERED',
  'INTERHOST_MOVEOUT_COMPLETED',
  'INTERHOST_MOVEOUT_FAILED',
])
const communicationInterface = z.strictObject({
  ipAddresses: z.array(z.strictObject({ host: z.string(), port: z.int() })),
})

export const registrationInfo = z.strictObject({
  appMobilityServiceId: z.string(),
  serviceConsumerId: z.union([
    z.strictObject({ appInstanceId: z.string() }),
    z.strictObject({ mepId: z.string() }),
  ]),
  deviceInformation: z
    .array(
      z.strictObject({
        associateId,
        appMobilityServiceLevel: z
          .enum([
            'APP_MOBILITY_NOT_ALLOWED',
            'APP_MOBILITY_WITH_CONFIRMATION',
            'APP_MOBILITY_WITHOUT_CONFIRMATION',
          ])
          .optional(),
        contextTransferState: z.enum(['NOT_TRANSFERRED', 'USER_CONTEXT_TRANSFER_COMPLETED']).optional(),
      }),
    )
    .optional(),
  expiryTime: z.uint32().optional(),
})

export const adjacentAppInstanceInfo = z.strictObject({
  appInstanceId: z.string(),
  appDId: z.string(),
  appInstanceCommLink: z.array(communicationInterface).min(1),
  mecHostInformation: z
    .strictObject({ hostName: z.string().optional(), hostId: z.record(z.string(), z.looseObject({})) })
    .optional(),
  registeredInstanceId: z.string().optional(),
})

const subscription = {
  callbackReference: uri,
  requestTestNotification: z.boolean().optional(),
  expiryDeadline: timeStamp.optional(),
  _links: z.strictObject({ self: link }),
}
export const anySubscription = z.discriminatedUnion('subscriptionType', [
  z.strictObject({
    subscriptionType: z.literal('MobilityProcedureSubscription'),
    ...subscription,
    filterCriteria: z.strictObject({
      appInstanceId: z.string().optional(),
      associateId: z.array(associateId).optional(),
      mobilityStatus: z.array(mobilityStatus).min(1),
    }),
  }),
  z.strictObject({
    subscriptionType: z.literal('AdjacentAppInfoSubscription'),
    ...subscription,
    filterCriteria: z.strictObject({ appInstanceId: z.string().optional() }),
  }),
])

export const subscriptionLinkList = z.strictObject({
  _links: z.strictObject({
    self: link,
    subscription: z
      .array(
        z.strictObject({
          href: uri,
          subscriptionType: z.enum(['MobilityProcedureSubscription', 'AdjacentAppInfoSubscription']),
        }),
      )
      .optional(),
  }),
})

const links = z.strictObject({ subscription: link })
export const notification = z.discriminatedUnion('notificationType', [
  z.strictObject({
    notificationType: z.literal('ApplicationContextUpdateNotification'),
    contextId: short,
    userAppInstanceInfo: z
      .array(
        z.strictObject({
          appInstanceId: z.string(),
          referenceURI: uri,
          appLocation: locationConstraints.optional(),
        }),
      )
      .min(1),
  }),
  z.strictObject({ notificationType: z.literal('ApplicationContextDeleteNotification'), contextId: short }),
  z.strictObject({
    notificationType: z.literal('AddressChangeNotification'),
    contextId: short,
    appInstanceId: z.string(),
    referenceURI: uri,
  }),
  z.strictObject({
    notificationType: z.literal('ApplicationLocationAvailabilityNotification'),
    contextId: short.optional(),
    availableLocations: z.array(z.strictObject({ appLocation: locationConstraints })).min(1),
  }),
  z.strictObject({
    notificationType: z.literal('MobilityProcedureNotification'),
    timeStamp: timeStamp.optional(),
    associateId: z.array(associateId).min(1),
    mobilityStatus,
    targetAppInfo: z
      .strictObject({ appInstanceId: z.string(), commInterface: communicationInterface.optional() })
      .optional(),
    _links: links,
  }),
  z.strictObject({
    notificationType: z.literal('AdjacentAppInfoNotification'),
    timeStamp: timeStamp.optional(),
    associateId: z.array(associateId).optional(),
    adjacentAppInfo: z
      .array(z.strictObject({ appInstanceId: z.string(), commInterface: z.array(communicationInterface) }))
      .optional(),
    _links: links,
  }),
  z.strictObject({
    notificationType: z.literal('ExpiryNotification'),
    timeStamp: timeStamp.optional(),
    expiryDeadline: timeStamp,
    _links: links,
  }),
  z.strictObject({ notificationType: z.literal('TestNotification'), _links: links }),
])

/** The answer is a problem of this status, in the form that RFC 9457 and ETSI give it. */
export function assertProblem(
  { status, headers, body }: { status: number; headers: Headers; body: unknown },
  wanted: number,
): z.infer<typeof problemDetails> {
  assert.equal(status, wanted, JSON.stringify(body))
  assert.match(headers.get('content-type') ?? '', /^application\/problem\+json/)
  const problem = problemDetails.parse(body)
  assert.equal(problem.status, wanted)
  return problem
}
