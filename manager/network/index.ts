export type { EncrypterName } from './encrypter.ts'
export { createNode, type NodeOptions } from './node.ts'
