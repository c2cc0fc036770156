import { credentials, makeGenericClientConstructor } from '@grpc/grpc-js'
import { fromJSON, type ServiceDefinition } from '@grpc/proto-loader'

/** What a kubelet would say: CRI's ImageService.PullImage, as far as it is needed. */
const CRI = {
  nested: {
    runtime: {
      nested: {
        v1: {
          nested: {
            ImageService: {
              methods: { PullImage: { requestType: 'PullImageRequest', responseType: 'PullImageResponse' } },
            },
            ImageSpec: { fields: { image: { type: 'string', id: 1 } } },
            PullImageRequest: { fields: { image: { type: 'ImageSpec', id: 1 } } },
            PullImageResponse: { fields: { imageRef: { type: 'string', id: 1 } } },
          },
        },
      },
    },
  },
}

/** Has containerd pull an image as a kubelet has it. Returns the image's ID. */
export function criPull(address: string, image: string): Promise<string> {
  const service = fromJSON(CRI as unknown as Parameters<typeof fromJSON>[0])[
    'runtime.v1.ImageService'
  ] as ServiceDefinition
  const { PullImage } = service
  const Client = makeGenericClientConstructor({}, 'cri')
  const client = new Client(`unix:${address}`, credentials.createInsecure())
  return new Promise<string>((resolve, reject) => {
    client.makeUnaryRequest(
      PullImage!.path,
      PullImage!.requestSerialize,
      PullImage!.responseDeserialize,
      { image: { image } },
      { deadline: Date.now() + 120_000 },
      (error, response) => {
        if (error) reject(error)
        else resolve((response as { imageRef: string }).imageRef)
      },
    )
  }).finally(() => client.close())
}
