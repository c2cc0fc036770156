export { type ChangeSource, containerdChanges } from './changes.ts'
export { type Content, type ContentOptions, followContent, giveAllBack } from './content.ts'
