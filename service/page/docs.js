// The OpenAPI page: Swagger UI over this service's document. A key that is typed there is kept until the page is left.

window.ui = SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  validatorUrl: null, // nobody else is told of the document
});
