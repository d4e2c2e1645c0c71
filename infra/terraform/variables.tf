variable "project" {
  description = "Id of the Google Cloud project."
  type        = string
}

variable "region" {
  description = "Where everything runs: near MongoDB, and where the exchanges answer (Binance refuses US regions with 451)."
  type        = string
  default     = "europe-west1"
}

# The values of secrets never enter Terraform's state: they are made beforehand (see ../README.md), here are only their names.
variable "mongodb_uri_secret" {
  description = "Name of the Secret Manager secret that holds MONGODB_URI."
  type        = string
  default     = "chandler-mongodb-uri"
}

variable "jwt_secret" {
  description = "Name of the Secret Manager secret that holds the HS256 key of admin and metrics tokens, 32 bytes or more."
  type        = string
  default     = "chandler-jwt-secret"
}

variable "alert_webhook_secret" {
  description = "Name of the Secret Manager secret that holds the URL alerts are posted to. Empty: none are posted."
  type        = string
  default     = ""
}

# An instance reads its environment once, so `latest` would give old and new instances different values.
variable "secret_versions" {
  description = "Pinned version per secret name; 1 where none is given. Raise it to roll a secret over."
  type        = map(string)
  default     = {}
}

variable "database" {
  description = "Name of the platform's database."
  type        = string
  default     = "chandler"
}

variable "candles_database" {
  description = "Name of the candles' database; may hold {exchange}, so that each exchange has one of its own."
  type        = string
  default     = "chandler"
}

variable "vpc_connector" {
  description = "Serverless VPC connector for a MongoDB in a private network or behind an allow list of addresses."
  type        = string
  default     = null
}

variable "limits" {
  description = "Per function what one instance has and how many there may be. `concurrency` is also its number of threads."
  type = map(object({
    memory        = string
    cpu           = string
    concurrency   = number
    instances_max = number
    timeout_s     = number
  }))
  default = {
    admin = { memory = "512Mi", cpu = "1", concurrency = 8, instances_max = 3, timeout_s = 60 }
    # One firing a minute holds one instance for 55 s; the others are for retries and overlaps.
    tick = { memory = "512Mi", cpu = "1", concurrency = 2, instances_max = 3, timeout_s = 120 }
    # Runs mostly wait for exchanges, so several share a CPU.
    worker  = { memory = "1Gi", cpu = "1", concurrency = 8, instances_max = 8, timeout_s = 300 }
    metrics = { memory = "512Mi", cpu = "1", concurrency = 2, instances_max = 2, timeout_s = 30 }
  }

  validation {
    condition     = toset(keys(var.limits)) == toset(["admin", "tick", "worker", "metrics"])
    error_message = "limits needs exactly the keys admin, tick, worker, metrics."
  }
}

variable "tick_calls_max" {
  description = "Worker calls that one tick holds open at once."
  type        = number
  default     = 64
}

variable "tick_budget_s" {
  description = "How long a tick goes on claiming."
  type        = number
  default     = 55
}

variable "worker_deadline_s" {
  description = "A run ends before this."
  type        = number
  default     = 240
}
