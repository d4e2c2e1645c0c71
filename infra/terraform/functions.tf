locals {
  # What each function needs to know besides the database. Names are those of shared/settings.py.
  environment = {
    admin = {}
    tick = {
      CHANDLER_TICK_AUDIENCE   = local.urls.tick
      CHANDLER_TICK_CALLERS    = google_service_account.scheduler.email
      CHANDLER_WORKER_URL      = local.urls.worker
      CHANDLER_WORKER_AUDIENCE = local.urls.worker
      CHANDLER_TICK_BUDGET_S   = tostring(var.tick_budget_s)
      CHANDLER_TICK_CALLS_MAX  = tostring(var.tick_calls_max)
      # Cloud Run has verified the token's signature at the door and hands it on without; see shared/usecases/authorize.py.
      CHANDLER_PLATFORM_VERIFIES_TOKENS = "true"
    }
    worker = {
      CHANDLER_WORKER_AUDIENCE          = local.urls.worker
      CHANDLER_WORKER_CALLERS           = google_service_account.functions["tick"].email
      CHANDLER_WORKER_DEADLINE_S        = tostring(var.worker_deadline_s)
      CHANDLER_PLATFORM_VERIFIES_TOKENS = "true"
    }
    metrics = {}
  }

  secret_environment = {
    for name in local.functions : name => merge(
      { MONGODB_URI = var.mongodb_uri_secret },
      contains(["admin", "metrics"], name) ? { CHANDLER_JWT_SECRET = var.jwt_secret } : {},
      # A tick sends alerts, and a worker the one that its own run has raised.
      contains(["tick", "worker"], name) && var.alert_webhook_secret != "" ? { CHANDLER_ALERT_WEBHOOK_URL = var.alert_webhook_secret } : {},
    )
  }
}

resource "google_cloudfunctions2_function" "functions" {
  for_each = local.functions
  name     = "chandler-${each.key}"
  location = var.region

  build_config {
    runtime         = "python311"
    entry_point     = each.key
    service_account = google_service_account.build.id
    source {
      storage_source {
        bucket = google_storage_bucket.source.name
        object = google_storage_bucket_object.source.name
      }
    }
  }

  service_config {
    service_account_email            = google_service_account.functions[each.key].email
    available_memory                 = var.limits[each.key].memory
    available_cpu                    = var.limits[each.key].cpu
    max_instance_request_concurrency = var.limits[each.key].concurrency
    max_instance_count               = var.limits[each.key].instances_max
    timeout_seconds                  = var.limits[each.key].timeout_s
    vpc_connector                    = var.vpc_connector
    # With Cloud NAT behind the connector, exchanges see an address of our own: no strangers use up its rate limit.
    vpc_connector_egress_settings = var.vpc_connector == null ? null : "ALL_TRAFFIC"

    environment_variables = merge(local.environment[each.key], {
      GOOGLE_CLOUD_PROJECT       = var.project
      CHANDLER_DATABASE          = var.database
      CHANDLER_CANDLES_DATABASE  = var.candles_database
      CHANDLER_MONGODB_POOL_SIZE = tostring(2 * var.limits[each.key].concurrency + 1)
      # gunicorn's threads, read by functions-framework: as many as requests that Cloud Run sends at once.
      THREADS = tostring(var.limits[each.key].concurrency)
    })

    dynamic "secret_environment_variables" {
      for_each = local.secret_environment[each.key]
      content {
        key        = secret_environment_variables.key
        project_id = var.project
        secret     = secret_environment_variables.value
        version    = lookup(var.secret_versions, secret_environment_variables.value, "1")
      }
    }
  }

  lifecycle {
    precondition {
      condition     = var.limits["worker"].instances_max * var.limits["worker"].concurrency >= var.tick_calls_max
      error_message = "The workers cannot take as many runs at once as a tick starts: raise limits.worker or lower tick_calls_max."
    }
    precondition {
      condition     = var.limits["worker"].timeout_s > var.worker_deadline_s && var.limits["tick"].timeout_s > var.tick_budget_s + 15
      error_message = "A function has to be able to end by itself before the platform cuts it off: raise its timeout_s."
    }
  }

  depends_on = [
    google_project_service.apis,
    google_project_iam_member.build,
    google_secret_manager_secret_iam_member.accessors,
  ]
}
