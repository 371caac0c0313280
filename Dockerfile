# One image for the API, the worker and the migrations; docker-compose.yml says which is which.
FROM node:26-bookworm-slim AS install
WORKDIR /app
COPY package.json package-lock.json .npmrc ./
# Optional packages are the binaries of the embedded Postgres and a faster msgpack decoder; install scripts would fetch a
# second Node. The image needs neither: its Node is the base image's, its Postgres a server.
RUN npm ci --omit=dev --omit=optional --ignore-scripts

FROM node:26-bookworm-slim
ENV NODE_ENV=production
# Inside a container 127.0.0.1 is reached by nobody; what is published, and where, is for whoever runs it to say.
# The API does not start on this address without AUTH_TOKENS_FILE or a key set.
ENV HOST=0.0.0.0
WORKDIR /app
COPY --from=install /app/node_modules ./node_modules
COPY package.json ./
COPY sql ./sql
COPY src ./src
USER node
EXPOSE 3000
CMD ["node", "--max-semi-space-size=16", "--heap-growing-percent=10", "--v8-pool-size=1", "src/api/main.ts"]
