import { after, before, describe } from 'node:test'
import { lacking } from '../../e2e/support.ts'
import { testRuntimeContract } from '../runtime-contract.ts'
import { createRuncPlace, type RuncPlace } from './runc-support.ts'

describe('the runc driver', { skip: lacking('runc', 'criu', 'busybox') }, () => {
  let place: RuncPlace
  before(async () => {
    place = await createRuncPlace()
  })
  after(() => place?.close())

  testRuntimeContract(() => ({
    source: place.runtime,
    target: place.runtime,
    image: undefined,
    start: place.startContract,
  }))
})
