import type { App, PodStatus } from '../offload/types.ts'

/** A pod of an application as ETSI's interfaces have it: a user application instance. */
export interface Instance {
  appInstanceId: string
  pod: string
  peer: string | undefined
  /** Where it answers; undefined while it does not run. */
  referenceURI: string | undefined
}

export function instanceId(appId: string, pod: string): string {
  return `${appId}.${pod}`
}

/** The application and the pod that an instance's identifier names; undefined for one of another make. */
export function parseInstanceId(text: string): { appId: string; pod: string } | undefined {
  const dot = text.indexOf('.')
  return dot < 0 ? undefined : { appId: text.slice(0, dot), pod: text.slice(dot + 1) }
}

/**
 * ETSI has each instance named by a reference URI. A pod without a port has nowhere to be reached: its name stands there, as it must not be
 * left out.
 */
function referenceOf(app: App, pod: PodStatus): string | undefined {
  if (pod.state !== 'running') return undefined
  return pod.referenceURI ?? `urn:shoal:app:${app.id}:${pod.name}`
}

export function instancesOf(app: App): Instance[] {
  return app.spec.pods.map(({ name }) => {
    const status = app.pods.find((pod) => pod.name === name)
    return {
      appInstanceId: instanceId(app.id, name),
      pod: name,
      peer: status?.peer,
      referenceURI: status && referenceOf(app, status),
    }
  })
}

/** Host and port of a reference URI; undefined where it has none. */
export function hostPortOf(referenceURI: string): { host: string; port: number } | undefined {
  if (!URL.canParse(referenceURI)) return undefined
  const { hostname, port, protocol } = new URL(referenceURI)
  if (hostname === '') return undefined
  const usual = protocol === 'https:' ? 443 : 80
  return { host: hostname.replace(/^\[|\]$/g, ''), port: port === '' ? usual : Number(port) }
}
