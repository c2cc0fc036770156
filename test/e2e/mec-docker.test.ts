import { testMecContract } from './mec-contract.ts'
import { DOCKER } from './pod-hosts.ts'

testMecContract(DOCKER)
