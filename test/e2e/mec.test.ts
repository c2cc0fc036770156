import { testMecContract } from './mec-contract.ts'
import { CONTAINERD } from './pod-hosts.ts'

testMecContract(CONTAINERD)
